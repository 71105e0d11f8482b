"""Network and parts of a conditional VAE: built, started at the closed-form optimum, trained, saved."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from medrep._persisted import Arrays, Read, converted, given, persisted, stored
from medrep._structuring import check_arrays
from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.errors import ModelError
from medrep.models.base import FitContext
from medrep.models.chunks import row_blocks_of
from medrep.models.linear.model import LinearModel
from medrep.models.vae.bodies import Autoencoder, Body
from medrep.models.vae.components import FactorModel, Marginals
from medrep.models.vae.latents import LatentLayer
from medrep.models.vae.losses import concatenated_distance_covariance
from medrep.models.vae.objective import Task, VaeObjective, condition_vector, condition_width
from medrep.models.vae.quantised import DECAY
from medrep.models.vae.residuals import ScannerLayer, unstandardise
from medrep.models.vae.salient import SalientLayer
from medrep.models.vae.settings import VaeSettings
from medrep.models.vae.trajectories import Trajectories
from medrep.training.loop import TOTAL, TrainingProblem, TrainingRun, fit_loop, placed

Data = Float[np.ndarray, "people columns"]

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
_PERMUTATIONS = 60
_SPOKEN_EVERY = 10


@dataclass(frozen=True)
class Plan:
    """How the network is trained on everybody, and how that was found.

    `epochs` are those until the judges stopped gaining (0 leaves the start as it is), `dependence` the distance covariance
    of z and the covariates among the judges, `floor` the 95% quantile of its permutations, and `rows` the search's history.
    """

    strength: float
    epochs: int
    dependence: float
    floor: float
    rows: list[tuple[int, str, float]]


def build_network(schema: CovariateSchema, columns: Columns, latents: int, settings: VaeSettings) -> Autoencoder:
    """Return a network of the right shape."""
    return Autoencoder(
        columns.count,
        latents,
        condition_width(schema),
        Body(
            settings.body_of(columns),
            settings.hidden,
            settings.conditioning,
            None if columns.grid is None else columns.grid.shape,
        ),
        heteroscedastic=settings.heteroscedastic and settings.noise == 0,
        prior=settings.prior,
        roles=settings.roles,
    ).eval()


def weight_decay(settings: VaeSettings) -> float:
    """Return how weights decay: not at all, but for latents that snap."""
    return DECAY if settings.roles.values else 0.0


def start_at_optimum(network: Autoencoder, factors: FactorModel, latents: int, settings: VaeSettings) -> None:
    """Set the linear maps to the optimum of the linear conditional VAE.

    It is the optimum for beta 1, and a start near it for another beta; a Dirichlet prior has none and starts at random.
    """
    if settings.prior == "dirichlet":
        return
    encode, variance = factors.posterior(latents, settings.beta)
    loadings = factors.loadings[:latents]
    noise = factors.noise + (factors.loadings[latents:] ** 2).sum(axis=0)
    scale = settings.noise if settings.noise > 0 else np.sqrt(np.maximum(noise, 1e-6))
    with torch.no_grad():
        for parameter, value in (
            (network.encoder.linear.weight, encode),
            (network.encoder.linear.bias, 0.0),
            (network.encoder.log_variance, np.log(variance)),
            (network.decoder.linear.weight, loadings.T),
            (network.decoder.linear.bias, 0.0),
            (network.decoder.log_scale, np.log(scale)),
        ):
            parameter.copy_(torch.as_tensor(np.broadcast_to(value, tuple(parameter.shape)).copy()))


def search(
    make: Callable[[], Autoencoder],
    task: Task,
    settings: VaeSettings,
    judges: Int[np.ndarray, " people"],
    seed: int,
    work: FitContext,
    fingerprint: Mapping[str, object],
) -> Plan:
    """Find the strength of the independence penalty and the number of epochs, on people whom no layer was fitted to.

    The rule: strengths go up from `STRENGTHS`, each trained from the start until the judges stop gaining; the first is taken
    at which the distance covariance of z and all covariates among the judges does not exceed the 95% quantile of its
    permutations, or, if none does, the one with the lowest value. The dependence is judged on one row of each participant.

    `make` returns a network at its start, whose layers below have not seen the judges; `judges` is 1 for people who judge,
    0 for people who are fitted; `fingerprint` says what the training depends on.
    """
    device = placed(settings.training)
    chosen, fitted = (torch.as_tensor(np.flatnonzero(judges == part)) for part in (1, 0))
    first = list({task.whose[int(row)]: int(row) for row in reversed(chosen.tolist())}.values())
    single = torch.as_tensor(sorted(first), dtype=torch.int64).to(device)
    fixed = settings.strength >= 0 or settings.independence == "none"
    plans: list[Plan] = []
    rows: list[tuple[int, str, float]] = []
    for stage, strength in enumerate((max(settings.strength, 0.0),) if fixed else STRENGTHS):
        network = make().to(device)
        objective = VaeObjective(network, task, settings, strength)
        name = f"search {stage + 1}"
        work.phase(name)
        state = fit_loop(
            TrainingProblem(network, objective, fitted, chosen, weight_decay(settings)),
            settings.training,
            seed,
            _training_run(work, name, {**fingerprint, "strength": strength}, settings.training.epochs),
        )
        rows += [(epoch, f"{name}/{part}", value) for epoch, part, value in state.rows]
        work.phase(f"{name}: independence of the latents")
        network.eval()
        z = task.encode(network, single)
        dependence, floor = judged_dependence(z, [part[single].cpu() for part in task.parts], seed)
        plans.append(Plan(strength, state.best_epoch, dependence, floor, rows))
        if dependence <= floor:
            return plans[-1]
    best = min(plans, key=lambda plan: plan.dependence)
    return replace(best, rows=rows)


def train(
    network: Autoencoder,
    task: Task,
    settings: VaeSettings,
    plan: Plan,
    seed: int,
    work: FitContext,
    fingerprint: Mapping[str, object],
) -> list[tuple[int, str, float]]:
    """Train the network in place on everybody, as planned; return the history."""
    network.to(placed(settings.training))
    objective = VaeObjective(network, task, settings, plan.strength)
    everybody, nobody = torch.arange(len(task.contexts[0])), torch.zeros(0, dtype=torch.int64)
    state = fit_loop(
        TrainingProblem(network, objective, everybody, nobody, weight_decay(settings)),
        settings.training,
        seed,
        _training_run(work, "final", {**fingerprint, "strength": plan.strength, "epochs": plan.epochs}, plan.epochs),
        until=plan.epochs,
    )
    network.to("cpu").eval()
    return [*plan.rows, *((epoch, f"final/{part}", value) for epoch, part, value in state.rows)]


def _training_run(work: FitContext, name: str, fingerprint: Mapping[str, object], epochs: int) -> TrainingRun:
    folder = None if work.folder is None else work.folder / name.replace(" ", "-")
    return TrainingRun(folder, work.resume, fingerprint, _Reporter(work, name, epochs, [time.monotonic()]))


def judged_dependence(
    z: Float[np.ndarray, "people latents"], parts: list[Float[torch.Tensor, "people _"]], seed: int
) -> tuple[float, float]:
    """Return the distance covariance of z and all covariates, and the 95% quantile of its permutations."""
    rng = np.random.default_rng(seed)
    latents = torch.as_tensor(z, dtype=torch.float32) / max(z.shape[1], 1) ** 0.5
    if len(latents) < 4 or not parts:
        return 0.0, 0.0
    shuffled = [
        float(concatenated_distance_covariance(latents[torch.as_tensor(rng.permutation(len(latents)))], parts))
        for _ in range(_PERMUTATIONS)
    ]
    return float(concatenated_distance_covariance(latents, parts)), float(np.quantile(shuffled, 0.95))


@dataclass(frozen=True)
class _Reporter:
    """Says how far a training is: its epochs at most, and when each that was seen had ended."""

    work: FitContext
    name: str
    epochs: int
    ends: list[float]

    def __call__(self, epoch: int, parts: Mapping[str, float]) -> None:
        self.ends.append(time.monotonic())
        left = (self.epochs - epoch) * (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        if epoch < self.epochs:
            self.work.phase(
                f"{self.name}, epoch {epoch + 1} of {self.epochs} at most, {timedelta(seconds=round(left))} left at most"
            )
        if epoch > 1 and epoch % _SPOKEN_EVERY:
            return
        shown = {name.removeprefix("train/"): v for name, v in parts.items() if name.startswith("train/") and v != 0}
        judged = parts.get(f"validation/{TOTAL}")
        tail = "" if judged is None else f"; validation {judged:.4f}"
        self.work.say(f"{self.name}, epoch {epoch}: {', '.join(f'{k} {v:.4f}' for k, v in shown.items())}{tail}")


def _weights(network: Autoencoder) -> Arrays:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def _network(arrays: Arrays, read: Read) -> Autoencoder:
    """Build the network that the settings describe, and give it its weights."""
    trained, width = read["latents"].trained_schema(read["schema"]), len(read["latents"].gram)
    network = build_network(trained, read["columns"], width, read["settings"])
    check_arrays(arrays, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    if unknown := sorted(set(arrays) - set(network.state_dict())):
        raise ModelError(f"the network has no {', '.join(unknown)}; the weights are of another model")
    network.load_state_dict({name: torch.as_tensor(array) for name, array in arrays.items()})
    return network


def _with_parts_of_interactions(covariance: np.ndarray, read: Read) -> np.ndarray:
    """Return the covariance; models saved before parts of interactions had one know nothing of these."""
    effects = sum(len(term.centre) for term in read["linear"].design.closed().terms)
    missing = max(effects - len(covariance), 0) if covariance.shape == (len(covariance),) * 2 else 0
    padded = np.pad(covariance, (0, missing)) if missing else covariance
    check_arrays({"effects.covariance": padded}, {"effects.covariance": (effects, effects)})
    return padded


_COLUMNS = {"columns": "columns"}


@persisted(keys=("linear", "latents", "scanner"), sizes={"columns": lambda read: read["columns"].count})
@dataclass(frozen=True, eq=False)
class VaeParts:
    """The fitted parts, in the order data pass through them.

    The effect covariance is that of the columns of the linear layer's `Design.closed` among training people, the intercept
    not counted. The conditions are the covariates that no latents carry (`roles.py`).
    """

    scanner: ScannerLayer
    linear: LinearModel
    network: Autoencoder = field(metadata=converted("network", Arrays, _weights, _network))
    factors: FactorModel = field(metadata=stored(sizes=_COLUMNS))
    latents: LatentLayer
    marginals: Marginals = field(metadata=stored(sizes=_COLUMNS))
    effect_covariance: Float[np.ndarray, "effects effects"] = field(
        metadata=converted("effects.covariance", Float[np.ndarray, "_ _"], np.asarray, _with_parts_of_interactions)
    )
    conditions: tuple[str, ...] = field(
        metadata=given(lambda read: read["settings"].roles.conditions(read["schema"].names))
    )
    salient: SalientLayer | None = field(default=None, metadata=stored(omitted=lambda parts: parts.salient is None))
    trajectories: Trajectories | None = field(
        default=None, metadata=stored(omitted=lambda parts: parts.trajectories is None)
    )

    def decoded(
        self, schema: CovariateSchema, z: Float[np.ndarray, "people latents"], frame: pd.DataFrame, like: Data
    ) -> Data:
        """Return what the decoder draws of latents, in data units, as each row's scanner would have made it.

        Args:
            schema: Of training.
            z: The latents.
            frame: Covariates of each.
            like: Data of the same people, for where content lies.
        """
        found = np.empty(like.shape, like.dtype)
        for rows in row_blocks_of(len(z), like.shape[1]):
            own, nobody = frame.iloc[rows], np.zeros(like[rows].shape, like.dtype)
            mean, _ = self.network.decode(z[rows], condition_vector(schema, own, self.conditions))
            drawn = unstandardise(self.linear, mean, own, self.conditions, nobody, np.empty_like(nobody), drawn=True)
            found[rows] = self.scanner.render(drawn, own, like[rows])
        return found

    def left(self, schema: CovariateSchema, dataset: Dataset, z: Float[np.ndarray, "people latents"]) -> Data:
        """Return what the decoder leaves of visits; of cells that are no measurement NaN, of voxels 0.

        Args:
            schema: Of training.
            dataset: The visits, as scanned.
            z: Latents of each.
        """
        own, everything = np.asarray(dataset.values), slice(0, self.linear.columns.count)
        rest = own - self.decoded(schema, z, dataset.covariates, own)
        rest[:, self.linear.sd == 0] = 0
        exempt = self.linear.exempt(own, self.linear.support.of(dataset.covariates), everything)
        if exempt is not None:
            rest[exempt] = np.nan if self.linear.columns.grid is None else 0
        return rest

    def gain(self, z: Float[np.ndarray, "people latents"], dataset: Dataset) -> "Float[np.ndarray, ' people'] | None":
        """Return how unusual changes of latents are; None where no trajectories are known, or nobody came again.

        Args:
            z: The latents.
            dataset: The visits.
        """
        over = self.trajectories
        if over is None or dataset.people == len(dataset):
            return None
        return over.latents.scores(over.of_latents(z, dataset)).gain

    def draw(
        self, schema: CovariateSchema, frame: pd.DataFrame, rng: np.random.Generator
    ) -> Float[np.ndarray, "people columns"]:
        """Draw people: z from its prior, the decoder's mean, noise in the shape of what latents leave, and the effects."""
        context, latents = condition_vector(schema, frame, self.conditions), len(self.latents.gram)
        z = self.network.prior.sample(len(frame), latents, rng)
        z = z if self.salient is None else self.salient.drawn(z, frame, rng)
        mean, log_scale = self.network.decode(z, context)
        beyond = self.factors.loadings[latents:]
        noise = rng.standard_normal((len(frame), len(beyond))) @ beyond
        if (
            self.linear.columns.grid is None
        ):  # neighbouring voxels share their noise: drawn one by one it is none of a scan
            noise += rng.standard_normal(mean.shape) * np.sqrt(self.factors.noise)
        usual = np.sqrt((beyond**2).sum(axis=0) + self.factors.noise)
        ratio = np.divide(np.exp(log_scale), usual, out=np.zeros(mean.shape), where=usual > 0)
        data = self.marginals.draw(rng, len(frame), self.linear.sd == 0)
        whole = mean + ratio * noise
        drawn = unstandardise(self.linear, whole, frame, self.conditions, data, np.empty_like(data), drawn=True)
        return drawn if self.linear.columns.grid is None else self.linear.masses.drawn(drawn, rng)
