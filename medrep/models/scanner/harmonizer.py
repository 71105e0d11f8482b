"""Scanner layer of the volume models: every image is what one scanner made of what the reference would have made.

Generative process, for person i at level b of a batch covariate, u the image as the anchor scanner makes it, voxel v:

    x_v = F_b(u)_v + noise_b * e_v,    F_b(u)_v = f_v * r((k * u)_v),    log f_v = sum_j shading_j P_j(v),    e_v ~ (0, 1)
    r^-1(t) = eps * kappa * sinh(h(asinh(t / eps))),    h(a) = a + sum_k curve_k B_k(a),    h(0) = 0

| symbol | meaning | code name |
|---|---|---|
| f_v | shading: Legendre products P_j up to total degree 2 over the content, the gain with them | ``Scanner.shading`` |
| r | monotone intensity curve, given by its inverse; B_1(a) = a, further B_k natural cubic splines, all odd | ``Scanner.curve`` |
| kappa | keeps the anchor's median where it is, so that gain and curve are told apart | `curve_table` |
| eps | intensity below which the curve is a line and above which it is a power law | ``Frame.eps`` |
| k | separable symmetric kernel of reach 2; negative beside its centre for scanners sharper than the anchor | ``Scanner.taps`` |
| noise_b | deviation of white noise, in data units | ``Scanner.noise`` |
| R_b | regression, by how much goes on around a voxel, that undoes blur and noise | `Restoration` |

Inference: the priors and the anchor's identity fix the scale; shading and curve by indirect inference on intensity quantiles,
adjusted for covariates (`inference`); blur and noise from power spectra (`point_spread`); R_b on the anchor's own people sent
through F_b (`restoration`). With T_b = (f, r)^-1 the way back is z = R_b(T_b(x)), and moving from b to b* is

    x' = F_b*(z) + (s_b* / s_b) (x - F_b(z)),    s_b: deviation of x - F_b(z) over training people, 0 for the anchor

For b* = b nothing changes, exactly. Towards the anchor the residual, which is noise, is dropped: the estimate of least squared
error. The pooled reference is the scanner with the mean parameters over the training people.

Advantages: closed form, seconds to fit, bounded memory; undoes blur and noise, which no voxel-wise location and scale can;
needs no voxels that correspond. **Limitations**: an estimate towards the anchor is smoother than the anchor's own images, so
that power at fast frequencies still tells scanners; levels of fewer than 5 people get gain and shading alone, shrunk, and 20
or more are wanted; the content has to be roughly aligned; a scanner is taken to do the same to everybody, so images whose units
differ between people (raw MR intensities) are to be brought to one unit first; a mask has to leave exact zeros; for intensities
with a meaningful offset (CT) a curve through zero is the wrong one. The state keeps a few training people's volumes (``kept``),
without which unseen levels get gain and shading alone: a model folder is as confidential as its training data. What another
scanner would have made is a model's answer near its support, not a causal fact.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Float32

from medrep._persisted import persisted, stored
from medrep.cohort.dataset import Dataset
from medrep.errors import CovariateError, ModelError
from medrep.models.base import Adaptation
from medrep.models.scanner.estimation import LEAST_PEOPLE, STEPS, Comparison, Estimate, Evidence, Group
from medrep.models.scanner.fitting import ScannerState, fit_levels, level_note
from medrep.models.scanner.forward import Box, Rendering, Scanner, change_content, find_images, is_flat, most_people
from medrep.models.scanner.restoration import Restoration, fit_inverse, invert_and_restore

Voxels = Float[np.ndarray, "some voxels"]


@dataclass(frozen=True)
class _NewSite:
    """An unseen level as estimated, with a note of what to know about it; empty if all is well.

    Attributes:
        scanner: Its parameters.
        inverse: The way back from it.
        errors: Standard errors: of log gain and shading, root mean square over the content, in units of the deviation of log
            intensities between people within scanners; and of the curve's slope, None where it is not estimated.
        shares: Shares of the raw estimates' energy that the prior left: of gain and shading, and of the slope.
    """

    scanner: Scanner
    inverse: Restoration
    errors: tuple[float, float | None]
    shares: tuple[float, float]
    note: str


def _estimate_level(
    known: ScannerState,
    rows: Float32[np.ndarray, "people voxels"],
    effects: Float[np.ndarray, "people effects"],
    seed: int,
) -> _NewSite | None:
    """Estimate an unseen level from volumes and centred covariate columns; None if nobody has a usable image.

    Raises ModelError for other covariate columns than training had.
    """
    if effects.shape[1] != len(known.evidence.effects):
        raise ModelError(f"{effects.shape[1]} covariate columns, but training had {len(known.evidence.effects)}")
    images = find_images(rows, range(len(rows)), known.grid, effects)
    if not images:
        return None
    volumes = known.kept_volumes()
    nobody = np.zeros((len(volumes), effects.shape[1]))
    reference = find_images(volumes, range(len(volumes)), known.grid, nobody)
    comparison = Comparison(known.frame, known.window, reference, np.random.default_rng([seed, 3]))
    pointwise = len(images) < LEAST_PEOPLE or not reference
    scanner = Scanner.identity(known.frame)
    for step in range(STEPS):
        own = Group(images, comparison.inverted(scanner, images))
        estimate = comparison.step(scanner, own, known.evidence, first=step == 0, pointwise=pointwise)
        scanner = estimate.scanner
    errors, shares = _how_well(estimate, comparison.places, known.evidence, pointwise=pointwise)
    note = level_note(len(images))
    if not reference:
        note = "gain and shading alone are estimated, since the model keeps no volumes"
    return _NewSite(scanner, fit_inverse(comparison, scanner, images), errors, shares, note)


def _how_well(
    estimate: Estimate, places: Float[np.ndarray, "features fields"], evidence: Evidence, *, pointwise: bool
) -> tuple[tuple[float, float | None], tuple[float, float]]:
    fields, pull = places.shape[1], np.diag(estimate.prior**-2.0)
    covariance = np.linalg.inv(estimate.precision + pull)
    unit = float(np.sqrt(np.mean(np.diag(evidence.covariance))))
    spread = np.einsum("pi,ij,pj->p", places, covariance[:fields, :fields], places)
    slope_se = None if pointwise else float(np.sqrt(covariance[fields, fields]))
    theta = np.concatenate([estimate.scanner.shading, estimate.scanner.curve])
    raw = theta + np.linalg.pinv(estimate.precision, hermitian=True) @ (pull @ theta)
    slope = slice(fields, fields + 1)
    kept = 0.0 if pointwise else _share(theta[slope], raw[slope])
    shading_kept = _share(places @ theta[:fields], places @ raw[:fields])
    return (float(np.sqrt(spread.mean())) / unit, slope_se), (shading_kept, kept)


def _share(left: np.ndarray, raw: np.ndarray) -> float:
    energy = float((raw**2).sum())
    return min(float((left**2).sum()) / energy, 1.0) if energy > 0 else 0.0


_MOST_RATIO = 4.0
_Change = Callable[[str, np.ndarray, Box], np.ndarray]


def _refuse_no_anchor(harmoniser: "ScannerHarmonizer") -> None:
    if harmoniser.reference not in harmoniser.known.counts:
        raise ModelError(f"the anchor {harmoniser.reference!r} is none of the levels; train again or fetch it again")


@persisted(keys=("covariate", "anchor", "seed", "notes", "known"), check=_refuse_no_anchor)
@dataclass(frozen=True)
class ScannerHarmonizer:
    """Fitted scanners of one batch covariate, and the way back from each; see the module's sheet for the symbols.

    The notes name levels that could not be fitted in full, and people who were left out.
    """

    covariate: str
    reference: str = field(metadata=stored("anchor"))
    known: ScannerState = field(metadata=stored(arrays=""))
    seed: int
    notes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        effects: Float[np.ndarray, "people effects"],
        *,
        covariate: str,
        reference: str | None = None,
        seed: int = 0,
    ) -> "ScannerHarmonizer":
        """Fit on training people's volumes on a common grid, padded by repeating the border.

        NaN counts as the median. Of each level at most `most_people` are looked at, chosen by the seed and the people's keys.
        What `effects`, centred covariate columns (`Design.effects` without the intercept), explain is kept. Without a
        reference, the sharpest and least noisy level is it (`choose_reference`).

        Raises:
            CovariateError: A covariate without levels, an anchor that nobody has, or people of unknown levels.
            ModelError: Data that do not fit the grid.
        """
        if not dataset.schema.levels(covariate):
            raise CovariateError(f"{covariate} has no levels; a scanner is a level of a categorical batch covariate")
        if dataset.columns.grid is None:
            raise ModelError("scanners are fitted to images on a grid")
        _check_width(dataset.values, dataset.columns.grid.size)
        found, known, notes = fit_levels(dataset, covariate, effects, reference=reference, seed=seed)
        return cls(covariate, found, known, seed, notes)

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that have a scanner."""
        return tuple(self.known.counts)

    def restore_to_reference(self, rows: Voxels, levels: Sequence[str]) -> Voxels:
        """Return u: everybody, each of a level or `POOLED`, as the anchor would have made them.

        The rows are new and of the same dtype; padding, NaN, what a mask left empty and volumes of one value stay as they
        are. Raises CovariateError for levels without a scanner.
        """
        return self.transform(rows, levels, self.reference)

    def transform(self, rows: Voxels, levels: Sequence[str], target: str) -> Voxels:
        """Return x': everybody as another scanner, or `POOLED`, would have made them; see the sheet and `restore_to_reference`.

        Volumes that are at ``target`` already come back as they are.
        """
        renderings = self._renderings([*levels, target])
        there = renderings[target]

        def change(level: str, seen: np.ndarray, box: Box) -> np.ndarray:
            here, back = renderings[level], self.known.ways_back[level]
            canonical = invert_and_restore(seen, box, here, back)
            transformed = there.forward(canonical, box)
            own = self.known.ways_back[target].residual
            if back.residual > 0 and own > 0:
                # A scanner without noise to speak of has no residual that could stand for another's.
                ratio = min(own / back.residual, _MOST_RATIO)
                transformed = transformed + np.float32(ratio) * (seen - here.forward(canonical, box))
            return transformed

        return self._each(rows, rows, ["" if level == target else level for level in levels], change)

    def render(
        self, rows: Voxels, levels: Sequence[str], like: "Float[np.ndarray, 'some voxels'] | None" = None
    ) -> Voxels:
        """Return F(u), without noise: what scanners would make of images that the anchor made; see `restore_to_reference`.

        The padding and NaN of ``like`` tell where the content of ``rows`` lies; ``rows`` themselves by default. Give the people's
        own where u was predicted and so has no padding.
        """
        renderings = self._renderings(levels)
        still = {level for level, rendering in renderings.items() if rendering.scanner.does_nothing}

        def change(level: str, seen: np.ndarray, box: Box) -> np.ndarray:
            return renderings[level].forward(seen, box)

        marked = ["" if level in still else level for level in levels]
        return self._each(rows, rows if like is None else like, marked, change)

    def adapt(
        self, level: str, people: Iterable[tuple[Voxels, Float[np.ndarray, "some effects"]]]
    ) -> tuple["ScannerHarmonizer", Adaptation]:
        """Estimate the scanner of an unseen level from its own people, and tell how well it is known.

        The people's volumes and centred covariate columns come a few people at a time and are gone through once; the first
        `most_people` are kept in memory and looked at. Of the result, location is the log gain and shading, log scale the
        slope of the curve. The pooled reference stays that of training. Raises CovariateError for a level that is known
        already, or without anybody to learn from.
        """
        name = f"{self.covariate} {level!r}"
        if level in self.known.scanners:
            raise CovariateError(f"{name} has a scanner already; give the level another name, or refit")
        most, count = most_people(self.known.grid), 0
        rows: list[np.ndarray] = []
        effects: list[np.ndarray] = []
        for some, own in people:
            _check_width(some, self.known.grid.size)
            room = max(most - len(rows), 0)
            rows += [np.array(row, dtype=np.float32) for row in some[:room]]
            effects += list(own[:room])
            count += len(some)
        found = _estimate_level(self.known, np.array(rows), np.array(effects), self.seed) if rows else None
        if found is None:
            raise CovariateError(f"{name} has nobody with a usable image to learn from; leave it out, or add people")
        known = replace(
            self.known,
            scanners={**self.known.scanners, level: found.scanner},
            ways_back={**self.known.ways_back, level: found.inverse},
            counts={**self.known.counts, level: 0},
        )
        notes = (*self.notes, f"{level}: {found.note}") if found.note else self.notes
        how_well = Adaptation(self.covariate, level, count, *found.errors, *found.shares)
        return replace(self, known=known, notes=notes), how_well

    def _renderings(self, levels: Sequence[str]) -> dict[str, Rendering]:
        unknown = sorted(set(levels) - set(self.known.scanners))
        if unknown:
            shown = ", ".join(repr(level) for level in unknown)
            raise CovariateError(
                f"{self.covariate} {shown} has no scanner in this model ({', '.join(self.levels)}); refit with such people,"
                " or pass --unseen-site adapt"
            )
        return {level: Rendering(self.known.frame, self.known.scanners[level]) for level in sorted(set(levels))}

    def _each(self, rows: np.ndarray, like: np.ndarray, levels: Sequence[str], change: _Change) -> np.ndarray:
        """Apply a change to the content of every volume whose level is not empty."""
        _check_width(rows, self.known.grid.size)
        changed = np.array(rows, order="C")
        for row, template, level in zip(changed, like, levels, strict=True):
            where = template.reshape(self.known.grid.shape)
            if level and not is_flat(where):
                change_content(row.reshape(where.shape), where, partial(change, level))
        return changed


def _check_width(data: np.ndarray, voxels: int) -> None:
    if data.dtype.kind != "f":
        raise ModelError(f"the images are {data.dtype}, which would round the result; give float32 or float64")
    if data.shape[1] != voxels:
        raise ModelError(f"the images have {data.shape[1]} voxels, the grid {voxels}; bring them to one grid")
