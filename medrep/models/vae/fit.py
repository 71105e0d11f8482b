"""Fitting a conditional VAE, a layer at a time: scanner, linear effects, factors, network, latents, marginals."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from medrep._files import release_pages
from medrep.cohort.dataset import Dataset
from medrep.cohort.splits import split_participants
from medrep.errors import CohortError, CovariateError, ModelError
from medrep.models.base import FitContext
from medrep.models.chunks import row_blocks_of
from medrep.models.linear.design import Design
from medrep.models.linear.model import LinearModel
from medrep.models.scanner import ScannerHarmonizer
from medrep.models.vae.bodies import Autoencoder
from medrep.models.vae.components import FactorModel, Marginals
from medrep.models.vae.latents import LatentLayer
from medrep.models.vae.losses import gaussian_kl
from medrep.models.vae.network import Plan, VaeParts, build_network, search, start_at_optimum, train
from medrep.models.vae.objective import Task, condition_vector
from medrep.models.vae.ordered import check_ordered, chosen_degrees, ordered_effects
from medrep.models.vae.quantised import Quantised, told_latents
from medrep.models.vae.residuals import ScannerLayer, standardise
from medrep.models.vae.roles import Roles
from medrep.models.vae.salient import SalientLayer
from medrep.models.vae.settings import VaeSettings
from medrep.models.vae.starts import start_roles
from medrep.models.vae.subtypes import held_out_gains
from medrep.models.vae.trajectories import Trajectories
from medrep.training.loop import placed

_COLLAPSED_NATS = 0.01
_BEYOND = 64
_DRAWS = 2000
_FEWEST_JUDGES = 8
_COUNT_FOLDS = 5


def fit_parts(dataset: Dataset, settings: VaeSettings, seed: int, work: FitContext) -> tuple[VaeParts, pd.DataFrame]:
    """Fit every layer on training people; see `Model.fit` for the arguments and errors.

    The history has metric, name, value and epoch (0 where there is none).
    """
    started = time.perf_counter()
    settings.check(dataset.columns)
    check_ordered(settings.roles.ordered, dataset.schema, settings.linear.interactions)
    with tempfile.TemporaryFile() as scratch:
        given = _Given(replace(dataset, participants=tuple(dataset.whose)), settings, seed)
        work.phase("fit the scanners")
        scanner = _fit_scanner(given, work)
        given = given._replace(dataset=_anchored(scanner, given.dataset, scratch))
        given = _with_degrees(given, work)
        work.phase("fit the layers below the network")
        below, history = _fit_below(given, work)
        linear, factors = below.linear, below.factors
        judges = _judges(given)
        work.phase("fit the layers below again, without the people who judge")
        blind = _fit_blind(given, judges)
        latents = below.width(settings, len(dataset))
        if blind is not None and below.salient is None:
            latents = min(latents, blind.width(settings, len(dataset)))
        latents = latents if settings.prior == "gaussian" else settings.latents
        if latents < 1:
            raise ModelError("no direction of the residuals stands out from noise; train the linear model instead")
        forecast = min(latents, factors.active(settings.beta))
        work.say(f"forecast: {forecast} of {latents} latents active (conditional covariance, beta {settings.beta:g})")
        network, plan, rows = _fit_network(given, below, blind, judges, latents, work)
        counted = _count_subtypes(given, below, latents, work)
        work.phase("fit what is handed out of the latents")
        layer, z = _fit_latents(given, linear, network)
        active = _active(given, linear, network)
        if active < forecast:
            work.say(
                f"  warning: {active} latents are active, {forecast} were forecast: the posterior has collapsed in part"
            )
        closed = linear.design.closed().effects(dataset.covariates)[:, 1:]
        effects = np.cov(closed, rowvar=False).reshape(closed.shape[1], closed.shape[1])
        marginals = Marginals.fit(given.dataset.values, None)
        parts = VaeParts(scanner, linear, network, factors, layer, marginals, effects, given.conditions, below.salient)
        work.phase("fit the marginals of samples")
        if dataset.columns.grid is None:
            parts = replace(parts, marginals=_fit_marginals(given, parts))
        if dataset.people < len(dataset) and settings.prior == "gaussian" and settings.linear.visits == "auto":
            work.phase("fit people's own trajectories")
            told = 1 - np.exp(network.encoder.log_variance.detach().double().cpu().numpy())
            own = Trajectories.fit(
                dataset, z, partial(parts.left, dataset.schema), settings.linear, np.clip(told, 0, 1)
            )
            parts = replace(parts, trajectories=own)
    found = [
        ("latents", "forecast", float(forecast)),
        ("latents", "active", float(active)),
        ("latents", "width", float(latents)),
        ("independence", "strength", plan.strength),
        ("independence", "validation", plan.dependence),
        ("independence", "floor", plan.floor),
        ("training", "epochs", float(plan.epochs)),
        *counted,
        ("seconds", "fit", time.perf_counter() - started),
    ]
    summary = pd.concat([history, pd.DataFrame(found, columns=["metric", "name", "value"])], ignore_index=True)
    epochs = pd.DataFrame(
        [("loss", name, value, epoch) for epoch, name, value in rows],
        columns=["metric", "name", "value", "epoch"],
    )
    return parts, pd.concat([summary.assign(epoch=0), epochs], ignore_index=True).astype({"epoch": int})


class _Given(NamedTuple):
    """Data and options that every layer is fitted with."""

    dataset: Dataset
    settings: VaeSettings
    seed: int

    @property
    def conditions(self) -> tuple[str, ...]:
        """Covariates that the network is told."""
        return self.settings.roles.conditions(self.dataset.schema.names)

    def fit_linear(self, work: FitContext | None = None) -> tuple[LinearModel, pd.DataFrame]:
        """Fit the linear layer to these people; the layers above take each of their visits for a person."""
        plain = replace(self.settings.linear, components=0)
        model, history = LinearModel.fit(self.dataset, plain, seed=self.seed, work=work)
        ordered = self.settings.roles.ordered
        return ordered_effects(model.pooled(), ordered) if ordered else model.pooled(), history


def _with_degrees(given: _Given, work: FitContext) -> _Given:
    """Return the options with degrees of ordered latents' curves as people beyond others tell."""
    settings = given.settings
    if not settings.roles.ordered:
        return given
    work.phase("choose how bent the curves of ordered latents are")
    degrees = chosen_degrees(given.dataset, settings.linear, settings.roles.ordered)
    work.say(f"ordered latents: {degrees} degrees of freedom of {settings.linear.spline_degrees}")
    return given._replace(settings=replace(settings, linear=replace(settings.linear, spline_degrees=degrees)))


class _Below(NamedTuple):
    """The layers below the network."""

    linear: LinearModel
    factors: FactorModel
    salient: SalientLayer | None = None

    def width(self, settings: VaeSettings, people: int) -> int:
        """Return how many latents there can be, fitted to so many people."""
        if self.salient is not None:
            return self.salient.latents + self.salient.count
        most = min(settings.latents, len(self.factors.loadings))
        return told_latents(self.factors, most, people) if settings.roles.values else most

    def task(self, given: _Given, device: torch.device) -> Task:
        """Return what a network above these layers is trained on."""
        prior = None if self.salient is None else self.salient.prior(given.dataset.covariates, device)
        return Task.of(self.linear, given.dataset, device, given.settings.roles, prior)

    def start(self, network: Autoencoder, latents: int, settings: VaeSettings) -> None:
        """Set a network to the closed form."""
        if self.salient is None:
            start_at_optimum(network, self.factors, latents, settings)
        else:
            self.salient.start(network)


def _fit_scanner(given: _Given, work: FitContext) -> ScannerLayer:
    schema, settings, frame = given.dataset.schema, given.settings, given.dataset.covariates
    wanted = settings.scanner == "yes" or (settings.scanner == "auto" and len(schema.batches) == 1)
    if given.dataset.columns.grid is None or not wanted:
        return ScannerLayer()
    if len(schema.batches) != 1:
        raise ModelError(
            f"settings.scanner needs one batch covariate, there are {len(schema.batches)}; set scanner to no"
        )
    name = schema.batches[0]
    design = Design.fit(schema, frame, settings.linear.spline_degrees, settings.linear.interactions)
    design.check_aliases(frame)
    reference = str(schema[name].reference)
    harmoniser = ScannerHarmonizer.fit(
        given.dataset,
        design.effects(frame)[:, 1:],
        covariate=name,
        reference=reference if reference in schema.levels(name) else None,
        seed=given.seed,
    )
    work.say(f"scanner: {name} {harmoniser.reference!r} is the anchor")
    for note in harmoniser.notes:
        work.say(f"  note: {note}")
    return ScannerLayer(harmoniser)


def _anchored(scanner: ScannerLayer, dataset: Dataset, scratch: IO[bytes]) -> Dataset:
    """Return the data as the anchor's scanner would have made them, memory-mapped where there is a scanner."""
    if scanner.harmoniser is None:
        return dataset
    transformed = np.memmap(scratch, dtype=np.float32, mode="w+", shape=dataset.values.shape)
    for row, own in enumerate(dataset.chunks(1)):
        transformed[row] = scanner.to_reference(np.asarray(own.values), own.covariates)[0]
    return dataset.with_values(np.asarray(transformed))


def _fit_below(given: _Given, work: FitContext | None = None) -> tuple[_Below, pd.DataFrame]:
    linear, history = given.fit_linear(work)
    freedom = max(len(given.dataset) - 1.0 - len(linear.coefficients) - len(linear.batches.location), 2.0)
    if given.settings.roles.salient:
        salient = SalientLayer.fit(linear, given.dataset, given.settings, given.seed)
        if work is not None:
            work.say(f"salient latents: {salient.count}; {salient.described()}")
        return _Below(linear, salient.factors(), salient), history
    count = given.settings.latents + (_BEYOND if given.dataset.columns.grid is None else 0)
    residuals = linear.residuals(given.dataset)
    factors = FactorModel.fit(residuals, freedom, count, seed=given.seed, noise=given.settings.noise)
    return _Below(linear, factors), history


def _fit_blind(given: _Given, judges: Int[np.ndarray, " people"]) -> "_Below | None":
    """Fit the layers below without the judges, so that what they judge is not what they were fitted to; None without judges."""
    if given.settings.body_of(given.dataset.columns) == "linear" or not judges.any():
        return None
    fitted = np.flatnonzero(judges == 0)
    with tempfile.TemporaryFile() as scratch:
        values, others = given.dataset.values, given.dataset.covariates.iloc[fitted]
        some = np.memmap(scratch, values.dtype, mode="w+", shape=(len(fitted), values.shape[1]))
        for place, row in enumerate(fitted):
            some[place] = values[row]
        try:
            whose = given.dataset.whose[fitted].tolist()
            people = Dataset(some, others, given.dataset.schema, given.dataset.columns, tuple(map(str, whose)))
            return _fit_below(given._replace(dataset=people))[0]
        except (CovariateError, ModelError) as error:
            if isinstance(error, CovariateError) or given.settings.roles.salient:
                return None  # without the judges covariates cannot be told apart, or are too few of a level
            raise


def _fit_network(
    given: _Given,
    below: _Below,
    blind: "_Below | None",
    judges: Int[np.ndarray, " people"],
    latents: int,
    work: FitContext,
) -> tuple[Autoencoder, Plan, list[tuple[int, str, float]]]:
    """Start the network at the closed form, and train it as the judges say; return it, the plan and the history."""
    settings, seed = given.settings, given.seed

    def start(own: _Below, people: np.ndarray) -> Autoencoder:
        # Of salient latents those fitted without the judges may be fewer, or more.
        width = latents if own.salient is None else own.width(settings, len(people))
        network = build_network(given.dataset.schema, given.dataset.columns, width, settings)
        _seed_weights(network, seed)
        own.start(network, width, settings)
        if isinstance(network.prior, torch.nn.Module):
            weight = network.encoder.linear.weight.detach().double().numpy()
            means = _encoded(given.dataset, lambda h, _: h @ weight.T, own.linear, people, given.conditions)
            start_roles(network, means, seed)
        return network

    everybody = np.arange(len(given.dataset))

    # Without judges the closed-form start is not risked; a Dirichlet prior has none.
    plan = Plan(0.0, settings.training.epochs if settings.prior == "dirichlet" else 0, 0.0, 0.0, [])
    network = start(below, everybody)
    if settings.body_of(given.dataset.columns) == "linear":
        return network, plan, []
    fingerprint = _fingerprint(given, below.linear)
    device = placed(settings.training)
    if blind is not None:
        task = blind.task(given, device)
        begin = partial(start, blind, np.flatnonzero(judges == 0))
        plan = search(begin, task, settings, judges, seed, work, fingerprint)
        del task
    work.say(f"train everybody for {plan.epochs} epochs, strength of independence {plan.strength:g}")
    work.phase("train everybody")
    task = below.task(given, device)
    return network, plan, train(network, task, settings, plan, seed, work, fingerprint)


def _count_subtypes(given: _Given, below: _Below, latents: int, work: FitContext) -> list[tuple[str, str, float]]:
    """Judge how many subtypes there are, in latents of the closed form, which no number has shaped; return the history."""
    told = given.settings.roles.subtypes
    if told == 1:
        return []
    work.phase("judge the number of subtypes")
    encode, _ = below.factors.posterior(latents, given.settings.beta)
    everybody = np.arange(len(given.dataset))
    z = _encoded(given.dataset, lambda h, _: h @ encode.T, below.linear, everybody, given.conditions)
    folds = _folds(given.dataset.units.tolist(), _COUNT_FOLDS, given.seed)
    gains = held_out_gains(z, folds, told + 1, given.seed)
    if len(gains) < 2:
        return []
    likeliest = max(gains, key=lambda count: gains[count])
    shown = ", ".join(f"{count}: {gain:+.1f}" for count, gain in gains.items() if count > 1)
    work.say(
        f"subtypes: {told} asked for; people held out are likeliest under {likeliest} (log likelihood above 1: {shown})"
    )
    return [
        ("subtypes", "likeliest", float(likeliest)),
        *(("subtypes", f"held_out_{count}", gain) for count, gain in gains.items()),
    ]


def _seed_weights(network: Autoencoder, seed: int) -> None:
    """Draw the weights that do not start at zero; the order of parameters is the order of the draws."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and parameter.ndim > 1 and bool((parameter != 0).any()):
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
            elif parameter.requires_grad and name.endswith("bias"):
                parameter.zero_()


def _judges(given: _Given) -> Int[np.ndarray, " people"]:
    """Choose the people who judge: a share of each batch; nobody where they would be too few. Sessions stay together."""
    frame, share = given.dataset.covariates, given.settings.validation
    if share * given.dataset.people < _FEWEST_JUDGES:
        return np.zeros(len(frame), dtype=np.int64)
    table = frame.assign(participant_id=given.dataset.units.tolist())
    stratify = given.dataset.schema.batches[0] if given.dataset.schema.batches else None
    try:
        return split_participants(table, (1 - share, share), stratify=stratify, seed=given.seed)
    except CohortError:
        return np.zeros(len(frame), dtype=np.int64)


def _fit_latents(
    given: _Given, linear: LinearModel, network: Autoencoder
) -> tuple[LatentLayer, Float[np.ndarray, "people latents"]]:
    """Fit the latents' statistics, on people each of whom the linear layer has not seen where cross-fitting is possible.

    Returns:
        They, and the latents of these people.
    """
    dataset, frame = given.dataset, given.dataset.covariates
    encode = partial(_encoded, dataset, network.encode)
    everybody = np.arange(len(frame))
    blind, z = encode(linear, everybody, ()), encode(linear, everybody, given.conditions)
    if isinstance(network.prior, Quantised):
        network.prior.count(z)
    weight = network.decoder.linear.weight.detach().double().numpy()[linear.sd > 0]
    for fold in _folds(
        dataset.units.tolist(), given.settings.folds if given.dataset.columns.grid is None else 0, given.seed
    ):
        try:
            others, _ = given._replace(dataset=dataset.take(~fold)).fit_linear()
        except (CovariateError, ModelError):
            continue  # too few others to tell effects apart: these people keep their latents
        z[fold] = encode(others, np.flatnonzero(fold), given.conditions)
    return LatentLayer.fit(z, blind, frame, linear, weight.T @ weight, participants=dataset.participants), z


def _encoded(
    dataset: Dataset,
    encode: Callable[[np.ndarray, np.ndarray], np.ndarray],
    layer: LinearModel,
    rows: np.ndarray,
    known: tuple[str, ...],
) -> Float[np.ndarray, "people latents"]:
    """Return latents of some people, by their positions, with some covariates known."""
    found = []
    for part in row_blocks_of(len(rows), dataset.columns.count):
        some = dataset.covariates.iloc[rows[part]]
        h = standardise(layer, dataset.values[rows[part]], some, known)
        found.append(encode(h, condition_vector(dataset.schema, some, known)))
        release_pages(dataset.values)
    return np.concatenate(found)


def _folds(participants: Sequence[str], parts: int, seed: int) -> list[np.ndarray]:
    """Divide people at random, with all rows of a person in one part; no parts where people are too few."""
    whose = {who: place for place, who in enumerate(dict.fromkeys(participants))}
    if parts < 2 or len(whose) < 4 * parts:
        return []
    order = np.random.default_rng(seed).permutation(len(whose))
    part_of = np.empty(len(whose), dtype=np.int64)
    part_of[order] = np.arange(len(whose)) % parts
    part_of = part_of[[whose[who] for who in participants]]
    return [part_of == part for part in range(parts)]


@torch.no_grad()
def _active(given: _Given, linear: LinearModel, network: Autoencoder) -> int:
    """Count latents whose mean KL is 0.01 nats or more, or the entropy of whose values is.

    All of them under a Dirichlet prior, which has one KL for all.
    """
    if isinstance(network.prior, Quantised):
        return network.prior.varying(_COLLAPSED_NATS)
    if given.settings.prior == "dirichlet":
        return len(network.encoder.log_variance)
    names, found = given.conditions, list[torch.Tensor]()
    for part in row_blocks_of(len(given.dataset), given.dataset.columns.count):
        some = given.dataset.covariates.iloc[part]
        h = torch.as_tensor(standardise(linear, given.dataset.values[part], some, names))
        context = torch.as_tensor(condition_vector(given.dataset.schema, some, names), dtype=torch.float32)
        found.append(gaussian_kl(*network.encoder(h, context)))
    return int((torch.cat(found).mean(dim=0) >= _COLLAPSED_NATS).sum())


def _fit_marginals(given: _Given, parts: VaeParts) -> Marginals:
    rng = np.random.default_rng([given.seed, 17])
    frame = given.dataset.covariates
    rows = rng.permutation(np.arange(_DRAWS) % len(frame))
    drawn = parts.draw(given.dataset.schema, frame.iloc[rows], rng)
    return Marginals.fit(given.dataset.values, drawn, parts.linear.sd == 0)


def _fingerprint(given: _Given, linear: LinearModel) -> dict[str, object]:
    """Return what the training depends on: settings, people and columns by name, and sums over the data, rounded."""
    names = (
        given.dataset.covariates.to_csv(sep="\t")
        + "\t".join(given.dataset.columns.names)
        + str(given.dataset.columns.count)
    )
    sums = (linear.sd.sum(), (linear.sd**2).sum(), np.abs(linear.coefficients[0]).sum())
    settings = asdict(given.settings)
    if given.settings.roles == Roles():  # states that earlier versions left are gone on from
        del settings["roles"]
    return {
        "settings": settings,
        "seed": given.seed,
        "people": hashlib.sha256(names.encode()).hexdigest(),
        "data": [f"{float(value):.6g}" for value in sums],
    }
