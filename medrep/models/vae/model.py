"""Conditional VAE: what a person is without the covariates, and what any covariates do to anybody.

It stands on the linear model: smooth effects, and location and scale of batches, are taken out first (on volumes after a
scanner layer, `scanner/harmoniser.py`), and the network models what is left. It starts at the closed-form optimum of the
linear conditional VAE and is trained from there; with ``body: linear`` it stays there and needs no training.

Generative process, for person i with covariates c, of which the set S is known (h as in `residuals.py`):

    z_i ~ N(0, I), Dirichlet(1) or by `roles.py`,    h_iv = m_v(z_i, c_S) + s_v(z_i, c_S) * e_iv,    e_iv ~ (0, 1)
    x_iv = alpha_v + sum_{k in S} f_kv(c_ik) + sigma_v gamma_bv + sigma_v delta_bv * h_iv

| symbol | meaning | code name |
|---|---|---|
| z | the person without the covariates in S | `encode` (all known) |
| q(z given h, c_S) | encoder | ``network.encoder`` |
| m, s | decoder: mean and scale | ``network.decoder`` |
| f, gamma, delta | linear layer | ``linear`` |
| L, psi | factor model of h: closed-form start, and metric of what is kept | ``factors`` |
| location, scale and guard of z | what is done to latents on the way out | ``latents`` |
| common and salient factors | latents with a role | ``salient`` |

Inference: evidence bound with weight beta on the KL term, a penalty on the dependence of z and c in each batch of people, and one
on the distance of the batch's latents from N(0, I) (`vae_objective.py`).

**Removal** of R, keeping K. Where somebody may already be at the reference, everybody is transported there, and for c* = c
nothing changes, exactly:

    z' = location and scale of z moved;    h' = m(z', c*) + s(z', c*) / s(z, c) * (h - m(z, c))

Where nobody is there (the pooled batch), the weakest directions of z are left out (`suppression.py`), where nothing is kept z is
also guarded (directions that tell R are erased), and of what the decoder does not model a share is carried (``carry``), and all
of it in the span of K's effects (`kept.py`). Labels of K are not looked at, so they cannot be written into the data; only how
far an interaction of R with K goes depends on the person's own K, and it moves with that value. A second removal finds
everybody at the reference and changes nothing.

A column that the linear layer leaves as it is (mostly one value) gets its median where everything is removed, since it could
tell anything. Point masses (`point_masses.py`) stay, there too: who has one may tell a covariate. What the scanner layer moves,
the layers above leave alone; levels without a believed scanner are theirs.

A categorical covariate such as a diagnosis may be carried by latents of its own (``settings.roles.salient``; `salient.py` and
`contrastive.py` have the mathematics): common latents do not tell it, salient ones do, and lie about 0 in people at its
reference. The network is not told it, so that nobody's label is needed to encode. Removing it moves the salient part of the
others to where controls are, their noise included, and a counterfactual the other way; controls stay as they are. With body mlp a
network is trained on from there (`salient_prior.py`), and the move is the decoder's difference (`salient_network.py`).

People with several visits have levels, and where ten of them come three times, slopes over age of their own in z and in what the
decoder leaves (`trajectories.py`): forecasts, and visits moved along their own trajectories, are told from all of a person's
visits. A removal takes each visit by itself.

Advantages: removes covariance as well as location and scale; latents, removal, counterfactuals and samples from one
model; works for people whose covariates are unknown (`remove_unlabelled`). **Limitations**: on features, removal towards the
pooled batch gives back what the decoder models, about as many directions as latents, not the person's own noise; the
error of location estimates of small batches stays readable (`suppression.py` has the forecast); latents of unseen batches
are moved with the pooled ones' scale until `adapt`; nonlinear traces of covariates in single features can outlive the
guard, which is linear; towards the pooled scanner volumes keep their detail, so their latents are cleaner than they are. A
counterfactual is the model's answer near its support, not a causal fact.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep._persisted import persisted, stored
from medrep.cohort.covariates import POOLED, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.cohort.grid import Columns
from medrep.erasure import Certificate, Guard
from medrep.errors import ModelError
from medrep.models.base import (
    Adaptation,
    Capability,
    EffectTerms,
    FitContext,
    Forecast,
    Model,
    Posterior,
    Scores,
    root_mean_square,
)
from medrep.models.exceptions import Exceptions, Settling
from medrep.models.linear.model import LinearModel
from medrep.models.linear.random_effects import RandomEffects
from medrep.models.linear.trajectories import forecast_refusal
from medrep.models.requirements import Images, NetworkFit, Requirements
from medrep.models.vae.fit import fit_parts
from medrep.models.vae.following import Following
from medrep.models.vae.latents import Discriminants, LatentLayer
from medrep.models.vae.network import VaeParts
from medrep.models.vae.objective import condition_vector
from medrep.models.vae.ordered import positions
from medrep.models.vae.removal import Removal
from medrep.models.vae.residuals import batch_scale, standardise, unstandardise
from medrep.models.vae.salient import SalientLayer
from medrep.models.vae.salient_network import SalientNetwork
from medrep.models.vae.settings import VaeSettings
from medrep.training.schedule import has_cuda

Latents = Float[np.ndarray, "people latents"]
Data = Float[np.ndarray, "people columns"]

_AT_ONCE = 64
_STRENGTHS, _FEWEST_JUDGES = 4, 8  # strengths that are tried at most, and people without whom none is


@persisted(keys=("settings", "schema", "names", "grid", "linear", "latents", "scanner", "seed"))
@dataclass(frozen=True, eq=False, repr=False)
class ConditionalVae(Model):
    """A fitted conditional VAE; see the module's sheet for the symbols."""

    schema: CovariateSchema
    columns: Columns = field(metadata=stored(""))
    settings: VaeSettings
    parts: VaeParts = field(metadata=stored(""))
    seed: int = 0

    kind = "conditional_vae"
    grid_config = "vae_volume.yaml"
    settings_type = VaeSettings
    error_unit = "sd"
    sources = (
        "Variational autoencoder: Kingma and Welling 2014, ICLR. Closed-form erasure: Belrose et al. 2023, NeurIPS (LEACE).",
    )
    withheld: ClassVar[Mapping[Capability, str]] = {
        "unlabelled": "this model undoes each scanner by its own name; give the site,"
        " or train with --set settings.scanner=no"
    }

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        settings: VaeSettings | None = None,
        *,
        seed: int = 0,
        work: FitContext | None = None,
    ) -> tuple["ConditionalVae", pd.DataFrame]:
        """Fit on training people; see `Model.fit`."""
        settings = settings or VaeSettings()
        parts, history = fit_parts(dataset, settings, seed, work or FitContext())
        return cls(dataset.schema, dataset.columns, settings, parts, seed), history

    def transform(self, dataset: Dataset, to: pd.DataFrame, out: Data | None = None) -> Data:
        """Move covariates of each person; see `Model.transform`."""
        data = dataset.values
        self.parts.linear.check_columns(dataset)
        transformed = np.empty(data.shape, data.dtype) if out is None else out
        layer = self.parts.salient
        if layer is not None and layer.covariate in to:
            conditions = to.drop(columns=layer.covariate)
            moved = self._without_salient(layer, dataset, to)
            transformed[...] = moved.values
            return (
                self._moved(moved, conditions, transformed, (layer.covariate,))
                if len(conditions.columns)
                else transformed
            )
        return self._moved(dataset, to, transformed)

    def _moved(self, dataset: Dataset, to: pd.DataFrame, transformed: Data, gone: tuple[str, ...] = ()) -> Data:
        """Move conditions of each person, where other covariates are gone already."""
        data, frame = dataset.values, dataset.covariates
        there = frame.assign(**to)
        home = (frame[to.columns] == to).all(axis=1).to_numpy()
        transformed[home] = data[home]
        # What the scanner layer moves, the layers above leave alone; where it has no scanner for a level, they do it.
        batch = self.parts.scanner.covariate
        above = tuple(name for name in to if name != batch)
        handled = np.array([self.parts.scanner.handles(str(level)) for level in frame[batch]] if batch else home)
        for some, removed in ((~home & ~handled, tuple(to)), (~home & handled, above)):
            to_pool = (to[list(removed)].astype(object) == POOLED).any(axis=1).to_numpy(bool)
            for pooled in (False, True):
                rest = some & (to_pool == pooled)
                removal = self._removal(removed, pooled, gone) if rest.any() else None
                for rows in np.array_split(np.flatnonzero(rest), max(1, int(rest.sum()) // _AT_ONCE)):
                    if removal is not None:
                        own = data[rows]
                        transformed[rows] = removal.apply(own, frame.iloc[rows], there.iloc[rows])
                        self._settle(
                            transformed, own, rows, self.parts.linear.settling(frame.iloc[rows], there.iloc[rows])
                        )
        return transformed

    def _without_salient(self, layer: SalientLayer, dataset: Dataset, to: pd.DataFrame) -> Dataset:
        frame = dataset.covariates
        there = frame.assign(**to[[layer.covariate]])
        readout, known = self.readout([name for name in self.schema.names if name not in to]), [*to]
        known.remove(layer.covariate)
        trained = self._salient_network
        if trained is None:
            moved = layer.moved(self.parts.linear, readout, dataset.values, frame, there, known)
        else:
            moved = trained.moved(readout, dataset.values, frame, there, known)
        self._settle(moved, dataset.values, np.arange(len(frame)), self.parts.linear.settling(frame, there))
        return dataset.with_values(moved).with_covariates(there)

    def _removal(self, removed: tuple[str, ...], pooled: bool, gone: tuple[str, ...]) -> Removal:
        out = (*removed, *gone)
        kept = tuple(name for name in self.schema.names if name not in out)
        pooled = pooled and self.columns.grid is None
        guard = self.guard(out, kept) if pooled else None
        count = self.directions(out, kept) if pooled else 0
        return Removal(self.parts, self.trained_schema, removed, kept, self.settings.carry, pooled, guard, count)

    def _settle(self, transformed: np.ndarray, own: np.ndarray, rows: np.ndarray, settle: Settling) -> None:
        """Put back what stays, and NaN where an effect was never estimated."""
        everything = slice(0, own.shape[1])
        after = transformed[rows]
        stays = settle.stays(own, everything)
        if stays is not None:
            after[stays] = own[stays]
        transformed[rows] = settle.without_unknown(after, everything)

    def remove_unlabelled(self, dataset: Dataset, removed: Sequence[str]) -> Data:
        """Erase covariates of people none of whose covariates is known, by the guard alone.

        Args:
            dataset: The people, their data in their own units.
            removed: Covariates to erase; the covariance of the others with the latents is left as it is.
        """
        data, parts, nobody = dataset.values, self.parts, self._unknown(len(dataset.values))
        parts.linear.check_columns(dataset)
        kept = [name for name in self.schema.names if name not in removed]
        h = standardise(parts.linear, data, nobody, ())
        context = condition_vector(self.trained_schema, nobody, ())
        z = parts.network.encode(h, context)
        before, after = (
            parts.network.decode(own, context)[0] for own in (z, parts.latents.guard(list(removed), kept).apply(z))
        )
        share = 1.0 if self.columns.grid is not None else self.settings.carry if kept else 0.0
        cleaned = self.readout(kept).restore(after + share * (h - before), h)
        return unstandardise(parts.linear, cleaned, nobody, (), data, np.empty(data.shape, data.dtype))

    def encode(self, dataset: Dataset) -> Latents:
        """Return the latents with all covariates removed: moved to the reference, guarded, the weakest directions left out."""
        frame = dataset.covariates
        z = self._encoded(self.parts.scanner.to_reference(dataset.values, frame), frame, self.parts.conditions)
        return self._freed(z, frame)

    def encode_unlabelled(self, dataset: Dataset) -> Latents:
        """Return latents of people none of whose covariates is known: guarded, the weakest directions left out."""
        return self._released(self._encoded(dataset.values, self._unknown(len(dataset.values)), ()))

    def reconstruct(self, dataset: Dataset) -> Data:
        """Return mu(z, c), the decoder's mean for each person with all conditions known, in data units."""
        data, frame, names, parts = dataset.values, dataset.covariates, self.parts.conditions, self.parts
        own = parts.scanner.to_reference(data, frame)
        context = condition_vector(self.trained_schema, frame, names)
        mean, _ = parts.network.decode(self._encoded(own, frame, names), context)
        expected = unstandardise(parts.linear, mean, frame, names, own, np.empty(own.shape, own.dtype))
        return parts.scanner.render(expected, frame, data)

    def with_latents(self, dataset: Dataset, latents: Iterable[Latents]) -> Iterator[Data]:
        """Yield what the decoder makes of other latents; what it leaves of a person stays theirs; see `Model.with_latents`."""
        if refused := self.refusal("latents"):
            raise ModelError(refused)
        data, frame, names, parts = dataset.values, dataset.covariates, self.parts.conditions, self.parts
        own = parts.scanner.to_reference(data, frame)
        h, context = standardise(parts.linear, own, frame, names), condition_vector(self.trained_schema, frame, names)
        z = parts.network.encode(h, context)
        mean, log_scale = parts.network.decode(z, context)
        exempt = parts.linear.exempt(own, parts.linear.support.of(frame), slice(0, own.shape[1]))
        unit = parts.linear.sd * batch_scale(parts.linear, frame, names) * (True if exempt is None else ~exempt)
        for there in latents:
            new_mean, new_log_scale = parts.network.decode(there, context)
            change = new_mean - mean + np.expm1(new_log_scale - log_scale) * (h - mean)
            moved = parts.scanner.back(data, own, (own + unit * change).astype(own.dtype), frame, frame)
            yield np.where((there == z).all(axis=1, keepdims=True), data, moved)

    def scores(self, dataset: Dataset) -> Scores:
        """Return how far the decoder's mean is, in deviations of each column, and how unusual z is; see `Model.scores`.

        Images are compared as the anchor's scanner would have made them.
        """
        data, frame, names, parts = dataset.values, dataset.covariates, self.parts.conditions, self.parts
        parts.linear.check_columns(dataset)
        own = parts.scanner.to_reference(data, frame)
        h, context = standardise(parts.linear, own, frame, names), condition_vector(self.trained_schema, frame, names)
        z = parts.network.encode(h, context)
        exempt = parts.linear.exempt(own, parts.linear.support.of(frame), slice(0, own.shape[1]))
        used = np.isfinite(own) & (parts.linear.sd > 0) & (True if exempt is None else ~exempt)
        missed = np.where(used, h - parts.network.decode(z, context)[0], 0.0)
        error = root_mean_square((missed**2).sum(axis=1), used.sum(axis=1).astype(float))
        of_latents = parts.latents.effects
        deviation = of_latents.scores(of_latents.dataset(z, frame)).deviation
        gain, shares = parts.gain(z, dataset), parts.network.subtypes(h, context)
        placed = positions(parts.linear, parts.factors, h, frame, self.settings.roles.ordered)
        return Scores(error, deviation, self._freed(z, frame), gain=gain, subtypes=shares, positions=placed)

    def forecast(self, dataset: Dataset, to: pd.DataFrame, whose: Sequence[str]) -> Forecast:
        """Return what further measurements are expected to give; see `Model.forecast`."""
        return self._following(dataset).forecast(to, whose)

    def follow(self, dataset: Dataset, years: float) -> Data:
        """Move visits along people's own trajectories; see `Model.follow`."""
        return self._following(dataset).follow(years)

    def swapped(self, dataset: Dataset, donors: Dataset) -> Data:
        """Return people with the salient part of others in place of theirs: counterfactual people, for groups with few patients.

        All else stays as it is, and common latents exactly. Their level of the covariate is that of the donors.

        Args:
            dataset: The people.
            donors: As many others, in the same order.

        Raises:
            ModelError: The model has no salient latents, or people and donors are not as many.
        """
        layer = self.parts.salient
        if layer is None:
            raise ModelError("the model has no salient latents; train with --set settings.roles.salient=COVARIATE")
        if len(dataset) != len(donors):
            raise ModelError(f"{len(dataset)} people and {len(donors)} donors; give one donor for each")
        for own in (dataset, donors):
            self.parts.linear.check_columns(own)
        trained, data, conditions = self._salient_network, dataset.values, self.parts.conditions
        if trained is not None:
            return trained.swapped(data, dataset.covariates, donors, conditions)
        return layer.swapped(self.parts.linear, data, dataset.covariates, donors, conditions)

    @property
    def _salient_network(self) -> SalientNetwork | None:
        parts = self.parts
        if parts.salient is None or self.settings.body_of(self.columns) == "linear":
            return None
        return SalientNetwork(parts.salient, parts.linear, parts.network, self.trained_schema)

    def _following(self, dataset: Dataset) -> Following:
        self.parts.linear.check_columns(dataset)
        if self.parts.trajectories is None:
            raise ModelError(self.refusal("forecast"))
        frame = dataset.covariates
        z = self._encoded(self.parts.scanner.to_reference(dataset.values, frame), frame, self.parts.conditions)
        return Following.of(self.parts, self.trained_schema, dataset, z)

    @property
    def followed(self) -> str:
        """See `Model.followed`."""
        return "" if self.parts.trajectories is None else self.parts.trajectories.latents.followed

    def refusal(self, capability: Capability) -> str:
        """Return why the model cannot do something; see `Model.refusal`."""
        untold = capability == "forecast" and self.parts.trajectories is None
        return forecast_refusal(RandomEffects()) if untold else super().refusal(capability)

    def sample(self, frame: pd.DataFrame, *, seed: int) -> Data:
        """Draw new people, one for each row of covariates.

        z comes from its prior, and what the decoder leaves from the factors beyond the latents and each column's own noise;
        each column is then bent to its distribution in training, so that no value is one that nobody could have.
        Volumes are rendered by the scanner of each row.

        Args:
            frame: Covariates (`CovariateSchema.transfer`).
            seed: Of every draw.
        """
        return self.parts.scanner.render(
            self.parts.marginals.bend(self.parts.draw(self.trained_schema, frame, np.random.default_rng(seed))), frame
        )

    def certificates(
        self, removed: Sequence[str], kept: Sequence[str], *, learners: int | None = None, label_free: bool = False
    ) -> tuple[Certificate, ...]:
        """Say what is left of each removed covariate in the latents that are handed out; none without a guard.

        Args:
            removed: What is removed.
            kept: The others.
            learners: New people whom a linear probe learns from; by default four fifths of as many as in training.
            label_free: Whether labels are unknown, so that the guard is all there is: it is used whatever the settings say,
                and where something is kept all latents stay.
        """
        layer = self._common
        if not label_free and self.guard(removed, kept, layer) is None:
            return ()
        count = None if label_free and kept else self.directions(removed, kept, layer)
        return layer.certificates(list(removed), list(kept), count=count, subtracted=not label_free, learners=learners)

    @property
    def _common(self) -> LatentLayer:
        salient, layer = self.parts.salient, self.parts.latents
        return layer if salient is None else salient.common(layer)

    def directions(self, removed: Sequence[str], kept: Sequence[str], layer: LatentLayer | None = None) -> int:
        """Return how many directions of the latents (of a layer's) are handed out when ``removed`` goes and ``kept`` stays."""
        if self.settings.directions > 0:
            return self.settings.directions
        layer, target = layer or self.parts.latents, self.settings.target_auc
        return layer.directions(removed, kept, self.guard(removed, kept, layer), self.trained_schema, target)

    def guard(self, removed: Sequence[str], kept: Sequence[str], layer: LatentLayer | None = None) -> Guard | None:
        """Return the guard of the latents (of a layer's), or None where the settings have none.

        By default nothing is erased where something is kept: what erasing takes from it is more than what it adds to the
        location and scale that are moved already.
        """
        wanted = self.settings.guard == "yes" or (self.settings.guard == "auto" and not kept)
        return (layer or self.parts.latents).guard(removed, kept) if wanted else None

    def readout(self, kept: Sequence[str]) -> Discriminants:
        """Return what tells kept covariates in the data."""
        return Discriminants.of(self.parts.linear, self.parts.factors, self.parts.effect_covariance, kept)

    @property
    def carried(self) -> tuple[str, ...]:
        """See `Model.carried`."""
        return self.settings.roles.carried

    @property
    def latent_roles(self) -> tuple[str, ...]:
        """Salient latents stand last; see `Model.latent_roles`."""
        return tuple(f"salient_{k + 1}" for k in range(0 if self.parts.salient is None else self.parts.salient.count))

    def adapt(self, people: Iterable[Dataset]) -> tuple["ConditionalVae", tuple[Adaptation, ...]]:
        """Estimate unseen batch levels; see `Model.adapt`. The network counts a new level as unknown.

        The people are held in memory at once: the scanner has to be known before what it leaves can be.
        """
        rows = list(people)
        scanner, scanner_notes = self.parts.scanner.adapt(rows, self.parts.linear)
        anchored = [own.with_values(scanner.to_reference(np.asarray(own.values), own.covariates)) for own in rows]
        linear, notes = self.parts.linear.adapt(anchored)
        wider = replace(self, schema=linear.schema, parts=replace(self.parts, scanner=scanner, linear=linear))
        of_latents = self.parts.latents.effects
        codes = [wider._encoded(own.values, own.covariates, self.parts.conditions) for own in anchored]
        effects, _ = of_latents.adapt(
            [of_latents.dataset(z, own.covariates) for z, own in zip(codes, anchored, strict=True)]
        )
        latents, own = replace(self.parts.latents, effects=effects), self.parts.trajectories
        wider = replace(wider, parts=replace(wider.parts, latents=latents))
        if own is not None:
            known = own.adapt(
                [(some, z, wider.parts.left(self.trained_schema, some, z)) for some, z in zip(rows, codes, strict=True)]
            )
            wider = replace(wider, parts=replace(wider.parts, trajectories=known))
        return wider, (*notes, *scanner_notes)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """It samples, moves columns together, and needs no labels where no scanner is undone by its name."""
        can: frozenset[Capability] = frozenset({"joint", "sample"})
        can = can if self.settings.prior == "dirichlet" else can | {"latents"}  # shares sum to one: none moves alone
        can = can if self.parts.trajectories is None else can | {"forecast"}
        return can if self.parts.scanner.harmoniser is not None else can | {"unlabelled"}

    @property
    def exceptions(self) -> Exceptions:
        """Those of the linear layer; see `Model.exceptions`."""
        return self.parts.linear.exceptions

    @classmethod
    def knows_visits(cls, settings: VaeSettings) -> bool:
        """Return whether the layers about the network tell visits from people; see `Model.knows_visits`."""
        return LinearModel.knows_visits(settings.linear)

    @classmethod
    def effect_terms(cls, settings: VaeSettings) -> EffectTerms:
        """Return the terms of the linear layer; see `Model.effect_terms`."""
        return replace(LinearModel.effect_terms(settings.linear), section="settings.linear")

    @classmethod
    def requirements(
        cls,
        settings: VaeSettings,
        schema: CovariateSchema,
        frame: pd.DataFrame,  # noqa: ARG003
        images: Images,
    ) -> Requirements:
        """Estimate from the size of a step and the epochs at most; see `Model.requirements`."""
        training = settings.training
        judged = settings.validation * images.people >= _FEWEST_JUDGES and settings.body != "linear"
        stages = 1 if settings.strength >= 0 or settings.independence == "none" else _STRENGTHS
        fitted = (1 - settings.validation) * images.people
        batch = fitted / max(1, round(fitted / training.batch)) if judged else 0.0
        levels = [len(schema.levels(name)) for name in schema.batches]
        scanner = settings.scanner == "yes" or (settings.scanner == "auto" and len(levels) == 1)
        scanned = min(images.people, sum(levels) * max(24, min(64, 2**24 // images.voxels))) if scanner else 0
        effects = 2 + len(schema.names) * settings.linear.spline_degrees + 2 * sum(levels)
        epochs = (stages + 1) * training.epochs if judged else 0
        return NetworkFit(2.0 * settings.latents + effects, batch, epochs, scanned).requirements(images)

    def accelerated(self) -> "ConditionalVae":
        """Return the model with its network on CUDA where there is one."""
        if has_cuda():
            self.parts.network.to("cuda")
        return self

    def posterior(self, dataset: Dataset) -> Posterior:
        """Return the network's latents with all conditions known, not the directions that are handed out (`encode`).

        Without deviations where latents snap, and of a Dirichlet prior: shares depend on each other, and have no KL each.
        """
        frame, names, parts = dataset.covariates, self.parts.conditions, self.parts
        h = standardise(parts.linear, parts.scanner.to_reference(dataset.values, frame), frame, names)
        context = condition_vector(self.trained_schema, frame, names)
        means = parts.network.encode(h, context)
        return means, parts.network.deviations(h, context) if self.settings.has_deviations else None

    @property
    def trained_schema(self) -> CovariateSchema:
        """The schema without levels adapted to later: what the network's covariate vector is made of."""
        return self.parts.latents.trained_schema(self.schema)

    def _encoded(self, data: np.ndarray, frame: pd.DataFrame, known: Sequence[str]) -> Latents:
        h = standardise(self.parts.linear, data, frame, known)
        return self.parts.network.encode(h, condition_vector(self.trained_schema, frame, known))

    def _freed(self, z: Latents, frame: pd.DataFrame) -> Float[np.ndarray, "people directions"]:
        names = self.parts.conditions
        there = self.schema.transformed(frame, self.schema.references(names))
        return self._released(self.parts.latents.transform(z, frame, there, names))

    def _released(self, z: Latents) -> Float[np.ndarray, "people directions"]:
        names, kept, layer = list(self.parts.conditions), list(self.carried), self._common
        salient = self.parts.salient
        if salient is None:
            return layer.scores(z, self.guard(names, kept), self.directions(names, kept))
        names = list(self.schema.names)  # common latents tell none of them
        own = layer.scores(z[:, : salient.latents], self.guard(names, (), layer), self.directions(names, (), layer))
        return np.concatenate([own, z[:, salient.latents :]], axis=1)

    def _unknown(self, people: int) -> pd.DataFrame:
        references = self.schema.references(self.schema.names)
        return pd.DataFrame({name: [value] * people for name, value in references.items()}, index=range(people))
