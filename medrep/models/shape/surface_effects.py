"""Effects of covariates, regressed on where the template's surface lies in people.

Registration tells where each point of the template's surface lies in a person. How a person as a whole lies is no shape: it is
taken out of everybody, and where a moved organ comes to lie follows a rule. What is left, d_i, is regressed on covariates by
least squares, each point for itself, motion along the surface included. The likelihood of codes (`effects.py`) does worse with
few people: directions in which the prior of registration speaks look as if they were known best.

**How much is believed** is asked of people who were left out. A smooth covariate has three forms: a line, one pattern on a bent
curve (the leading one of all its columns), and a pattern for each column; others have one. Held-out displacements along the
normal are regressed on held-out predictions of all forms, with weights of zero or more that add up to one at most for a
covariate. No effect is the weight zero. What such weights w in all leave out of an effect that is there is taken in once more
(twicing: w becomes w (2 - w)), since a shrunken effect changes volumes too little. Levels of a batch are shrunk by how much
levels differ beyond chance.

**Where a moved organ comes to lie**: as much of the surface as the noise allows stays (`still`). A rigid motion is added to the
effect of each covariate, the one that minimises sum_s chi_s^2 / (1 + chi_s^2 / c), chi_s the motion of point s along its normal
in standard errors, starting from the least sum of chi_s.

**Volumes tell volume.** Registration loses some of the change. Each covariate's pattern gets a motion along the normal, where the
pattern is, so that the volume of the moved template follows people's log volumes, as far as that is more than its error.

With x = w + d(w), J its derivative and n the normal, the volume is 1/dims of the integral of x det(J) J^-T n over the surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls

from medrep.models.shape.effects import Group
from medrep.models.shape.mean_shape import Points, SmoothBasis, Structures

Placement = Literal["still", "mean", "kept"]
Shifts = Float[np.ndarray, "people points dims"]
Motions = Float[np.ndarray, "columns points dims"]
Columns = Float[np.ndarray, "people columns"]

_FOLDS = 10
_STEP = 0.02  # mm
_ALIGNMENTS = 4
_SEARCHES, _SOFT = 80, 25
_CHI = 4.0  # squared motion, in standard errors and for each column, at which a point no longer counts as staying
_RIDGE = 1e-3  # mm2: how well fields must go through motions
_EXACT = 1e-6  # mm2, the same where motions are smooth already
_FEW = 250  # points that are looked at in resampling
_UNSURE = 0.7  # standard deviation, in draws, of a place as a share of what `still` moves from the mean position
_SAMPLES = 24  # people at whose covariates a field is made to agree


@dataclass(frozen=True, eq=False)
class Seen:
    """Where points of the template's surface lie in people, mm, with the normals there and people's log volumes.

    `structures` says which structure each point belongs to, in order; None where there is one.
    """

    points: Points
    normals: Points
    places: Shifts
    log_volumes: Float[np.ndarray, "people structures"]
    structures: Structures | None = None

    @property
    def parts(self) -> list[slice]:
        """The points of each structure."""
        if self.structures is None:
            return [slice(None)]
        ends = np.cumsum(np.bincount(self.structures)).tolist()
        return [slice(*pair) for pair in pairwise([0, *ends])]

    def fewer(self, every: int) -> "Seen":
        """Return every so many points."""
        own = None if self.structures is None else self.structures[::every]
        return Seen(self.points[::every], self.normals[::every], self.places[:, ::every], self.log_volumes, own)

    def aligned(self) -> "Seen":
        """Bring everybody to lie alike: generalised Procrustes analysis without scale."""
        places = self.places
        for _ in range(_ALIGNMENTS):
            goal = places.mean(axis=0)
            places = np.stack([_laid_on(one, one, goal) for one in places])
        return replace(self, places=_laid_on(places, places.mean(axis=0), self.points))


@dataclass(frozen=True, eq=False)
class SurfaceEffects:
    """Motion of the template's surface by the columns of the design, mm, and how much each form was believed.

    `motions` are forward, of the points of the template; `mean` is the motion from the template to the organ at the reference.
    `weights` are those of each group in the first structure, then in the next.
    """

    motions: Motions
    mean: Points
    weights: tuple[Float[np.ndarray, " forms"], ...]


def _laid_on(moved: Points | Shifts, points: Points, goal: Points) -> np.ndarray:
    """Move by the one rigid motion that brings points onto the goal."""
    middle, there = points.mean(axis=0), goal.mean(axis=0)
    left, _, right = np.linalg.svd((points - middle).T @ (goal - there))
    proper = np.ones(len(right))
    proper[-1] = np.sign(np.linalg.det(left @ right))
    return np.asarray((moved - middle) @ ((left * proper) @ right) + there)


def surface_effects(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    basis: SmoothBasis,
    placement: Placement,
    people: Int[np.ndarray, " rows"],
) -> SurfaceEffects:
    """Learn effects; `people` are the persons that rows belong to, who are left out with all their rows."""
    seen = seen if placement == "kept" else seen.aligned()
    return _learned(seen, columns, groups, _Surface.of(seen, basis), placement, people)


def resampled_changes(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    basis: SmoothBasis,
    placement: Placement,
    people: Int[np.ndarray, " rows"],
    draws: Sequence[Int[np.ndarray, " rows"]],
) -> Float[np.ndarray, "draws columns coefficients"]:
    """Return by how much fields through motions may be others, as draws that spread as what is not known.

    `draws` are the rows of resampled people; all that was chosen is chosen anew, and motions are looked at at fewer points. What
    comes out is mixed to a normal distribution about the estimate with the same second moments: what shrinking moves to one side
    counts on both. With `still`, noise in motions draws that rule to the mean position, which resampling repeats and so does not
    see; each draw lies elsewhere by a share of the way between the places that the two rules choose.
    """
    few = seen.fewer(max(1, len(seen.points) // (_FEW * len(seen.parts))))
    few = few if placement == "kept" else few.aligned()
    surface = _Surface.of(few, basis)
    whole = _learned(few, columns, groups, surface, placement, people).motions
    changes = np.zeros((len(draws), len(whole), basis.count * few.points.shape[1]))
    for draw, rows in enumerate(draws):
        drawn = replace(few, places=few.places[rows], log_volumes=few.log_volumes[rows])
        found = _learned(drawn, columns[rows], groups, surface, placement, people[rows])
        changes[draw] = surface.fields.coefficients(found.motions - whole)
    rng, count = np.random.default_rng(len(draws)), len(draws)
    mixed = rng.standard_normal((count, count)) / np.sqrt(max(count, 1))
    changes = np.einsum("md,dck->mck", mixed, changes, optimize=True)
    if placement == "still":
        away = whole - _learned(few, columns, groups, surface, "mean", people).motions
        changes += _UNSURE * rng.standard_normal((count, 1, 1)) * surface.fields.coefficients(away)
    return changes


def _learned(
    seen: Seen,
    columns: Columns,
    groups: Sequence[Group],
    surface: "_Surface",
    placement: Placement,
    people: Int[np.ndarray, " rows"],
) -> SurfaceEffects:
    shifts, normals = seen.places - seen.points, seen.normals
    ridge = _ridge(columns, shifts, groups)
    fit = _Fit.of(columns, shifts, ridge)
    spread = fit.spread(columns, shifts, normals)
    motions, weights = np.zeros_like(fit.motions), list[Float[np.ndarray, " forms"]]()
    for part in seen.parts:
        # What is believed of an effect on one structure says nothing of another.
        some, along = np.ascontiguousarray(shifts[:, part]), normals[part]
        believed = _believed(columns, some, groups, ridge, along, people)
        forms = _forms(columns, some, groups, ridge, along)
        for group, own, share in zip(groups, forms, believed, strict=True):
            motions[group.columns, part] = np.einsum("f,fcpd->cpd", share, np.stack(own))
        weights += believed
    for group in groups:
        motion = motions[group.columns]
        if placement == "still" and motion.any():
            motions[group.columns] = _still(motion, seen, fit.covariance[group.columns, group.columns], spread)
    for structure, part in enumerate(seen.parts):
        motions = surface.following(part, seen.log_volumes[:, structure], columns, motions, groups)
    mean = (shifts - np.einsum("nc,cpd->npd", columns, motions)).mean(axis=0)
    return SurfaceEffects(motions, mean, tuple(weights))


@dataclass(frozen=True, eq=False)
class _Fit:
    """Least squares: motions of columns, and their covariance in units of what people differ by."""

    motions: Motions
    covariance: Float[np.ndarray, "columns columns"]
    mean: Points
    freedom: int

    @classmethod
    def of(cls, columns: Columns, shifts: Shifts, ridge: Float[np.ndarray, " columns"]) -> "_Fit":
        design = np.column_stack([np.ones(len(columns)), columns])
        inverse = np.linalg.pinv(design.T @ design + np.diag([0.0, *ridge]), hermitian=True)
        found = np.einsum("cn,npd->cpd", inverse @ design.T, shifts, optimize=True)
        return cls(found[1:], inverse[1:, 1:], found[0], max(len(columns) - int(np.linalg.matrix_rank(design)), 1))

    def spread(self, columns: Columns, shifts: Shifts, normals: Points) -> Float[np.ndarray, " points"]:
        """Return what people differ by at each point along the normal, mm."""
        rest = _along(shifts - self.mean, normals) - columns @ _along(self.motions, normals)
        return np.asarray(np.sqrt((rest**2).sum(axis=0) / self.freedom))


def _along(vectors: Float[np.ndarray, "count points dims"], normals: Points) -> Float[np.ndarray, "count points"]:
    return np.einsum("npd,pd->np", vectors, normals)


def _ridge(columns: Columns, shifts: Shifts, groups: Sequence[Group]) -> Float[np.ndarray, " columns"]:
    """Return how strongly columns are shrunk: those of a batch by how little its levels differ beyond chance."""
    ridge = np.zeros(columns.shape[1])
    for group in groups:
        if not group.exchangeable:
            continue
        others = np.delete(columns, np.arange(group.columns.start, group.columns.stop), axis=1)
        fit = _Fit.of(others, shifts, np.zeros(others.shape[1]))
        rest = shifts - fit.mean - np.einsum("nc,cpd->npd", others, fit.motions, optimize=True)
        noise = (rest**2).sum() / fit.freedom
        own = columns[:, group.columns]
        counts = (own**2).sum(axis=0)
        levels = np.einsum("nl,npd->lpd", own, rest, optimize=True)[counts > 0] / counts[counts > 0, None, None]
        beyond = (levels**2).sum(axis=(1, 2)) - noise / counts[counts > 0]
        ridge[group.columns] = noise / max(float(beyond.mean()), 1e-6 * noise)
    return ridge


def _forms(
    columns: Columns,
    shifts: Shifts,
    groups: Sequence[Group],
    ridge: Float[np.ndarray, " columns"],
    normals: Points,
) -> list[list[Float[np.ndarray, "_ points dims"]]]:
    """Return for each group what its columns do in each form."""
    fit = _Fit.of(columns, shifts, ridge)
    found = []
    for group in groups:
        full = fit.motions[group.columns]
        if group.smooth and len(full) > 1:
            bent = np.arange(group.columns.start + 1, group.columns.stop)
            straight = np.zeros_like(full)
            straight[0] = _Fit.of(np.delete(columns, bent, axis=1), shifts, np.delete(ridge, bent)).motions[
                group.columns.start
            ]
            found.append([straight, _one_pattern(full, fit.covariance[group.columns, group.columns], normals), full])
        else:
            found.append([full])
    return found


def _one_pattern(motions: Motions, covariance: Float[np.ndarray, "columns columns"], normals: Points) -> Motions:
    """Return the leading pattern of columns along the normal, and what each column has of it."""
    values, vectors = np.linalg.eigh(covariance)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))).T
    curves, _, _ = np.linalg.svd(whiten @ _along(motions, normals), full_matrices=False)
    curve = curves[:, :1]
    return np.einsum("ce,epd->cpd", np.linalg.pinv(whiten) @ curve @ curve.T @ whiten, motions)


def _believed(
    columns: Columns,
    shifts: Shifts,
    groups: Sequence[Group],
    ridge: Float[np.ndarray, " columns"],
    normals: Points,
    people: Int[np.ndarray, " rows"],
) -> list[Float[np.ndarray, " forms"]]:
    """Return the weights of each group's forms, by what they say of people who were left out."""
    persons, who = np.unique(people, return_inverse=True)
    folds = min(_FOLDS, len(persons))
    part = np.random.default_rng(len(persons)).permutation(len(persons))[who] % folds
    told, seen = [], []
    for fold in range(folds):
        out: Bool[np.ndarray, " rows"] = part == fold
        mean, centre = shifts[~out].mean(axis=0), columns[~out].mean(axis=0)
        forms = _forms(columns[~out], shifts[~out], groups, ridge, normals)
        own = columns[out] - centre
        rest = _along(shifts[out] - mean, normals)
        features = []
        for group, kinds in zip(groups, forms, strict=True):
            predicted = [own[:, group.columns] @ _along(kind, normals) for kind in kinds]
            if group.exchangeable:
                rest = rest - predicted[0]
            else:
                features += [one.ravel() for one in predicted]
        told.append(np.stack(features, axis=1) if features else np.zeros((rest.size, 0)))
        seen.append(rest.ravel())
    everything = np.concatenate(told)
    triangle = np.asarray(np.linalg.qr(np.column_stack([everything, np.concatenate(seen)]), mode="r"))
    share = nnls(triangle[:, :-1], triangle[:, -1])[0] if everything.shape[1] else np.zeros(0)
    weights, start = [], 0
    for group, kinds in zip(groups, forms, strict=True):
        if group.exchangeable:
            weights.append(np.ones(1))
            continue
        own_share = share[start : start + len(kinds)]
        start += len(kinds)
        own_share = own_share / max(1.0, own_share.sum())
        weights.append(own_share * (2 - own_share.sum()))
    return weights


def rigid_motions(points: Points) -> Float[np.ndarray, "motions points dims"]:
    """Return shifts along each axis, mm, and turns in each plane about the middle, by one root mean square radius."""
    dims = points.shape[1]
    away = points - points.mean(axis=0)
    away = away / np.sqrt((away**2).sum(axis=1).mean())
    found = [np.broadcast_to(axis, points.shape) for axis in np.eye(dims)]
    for first, second in combinations(range(dims), 2):
        turn = np.zeros(points.shape)
        turn[:, first], turn[:, second] = -away[:, second], away[:, first]
        found.append(turn)
    return np.stack(found)


def _still(
    motions: Motions, seen: Seen, covariance: Float[np.ndarray, "columns columns"], spread: Float[np.ndarray, " points"]
) -> Motions:
    """Add a rigid motion to each column so that as much of the surface as noise allows stays, for all columns together."""
    rigid = rigid_motions(seen.points)
    ways, across = _along(rigid, seen.normals), _along(motions, seen.normals)
    precision = np.linalg.pinv(covariance, hermitian=True)
    noise = np.maximum(spread, 1e-3 * spread.mean() + 1e-12)
    added = np.zeros((len(motions), len(rigid)))
    for search in range(_SEARCHES):
        rest = across + added @ ways
        chi = np.einsum("cp,ce,ep->p", rest, precision, rest) / noise**2
        if search < _SOFT:
            weight = 1 / np.sqrt(chi + 0.01 * chi.mean() + 1e-12)
        else:
            weight = 1 / (1 + chi / max(_CHI * len(motions), float(np.quantile(chi, 0.25)))) ** 2
        weight = weight / noise**2
        square = (ways * weight) @ ways.T
        # A ball can be turned without a trace.
        square[np.diag_indices_from(square)] += 1e-6 * np.trace(square)
        added = -np.linalg.solve(square, (ways * weight) @ across.T).T
    return motions + np.einsum("cr,rpd->cpd", added, rigid)


@dataclass(frozen=True, eq=False)
class _Surface:
    """The template's surface, for volumes."""

    points: Points
    normals: Points
    basis: SmoothBasis
    fields: "FieldsThrough"

    @classmethod
    def of(cls, seen: Seen, basis: SmoothBasis) -> "_Surface":
        return cls(seen.points, seen.normals, basis, FieldsThrough.of(seen.points, basis))

    def following(
        self,
        part: slice,
        log_volumes: Float[np.ndarray, " people"],
        columns: Columns,
        motions: Motions,
        groups: Sequence[Group],
    ) -> Motions:
        """Let the patterns of covariates on one structure, the points `part`, follow its volumes."""
        outward = np.zeros_like(motions)
        used = []
        for group in groups:
            own = _along(motions[group.columns, part], self.normals[part])
            where = (own**2).sum(axis=0)
            if not group.exchangeable and where.any():
                used += list(range(group.columns.start, group.columns.stop))
                outward[group.columns, part] = (where / where.mean())[:, None] * self.normals[part]
        if not used:
            return motions
        base, per = self.bent(motions), self.bent(outward)
        whole, one = (motions, outward), _Surface(self.points[part], self.normals[part], self.basis, self.fields)
        motions, outward, base, per = (each[:, part] for each in (motions, outward, base, per))
        amounts, errors = np.zeros(len(motions)), np.zeros(len(motions))
        others = [k for k in range(len(motions)) if k not in used]
        for _ in range(2):
            now = one.logs(columns, motions, outward, base, per, amounts)
            slopes = []
            for column in used:
                more = amounts.copy()
                more[column] += _STEP
                slopes.append((one.logs(columns, motions, outward, base, per, more) - now) / _STEP)
            design = np.column_stack([*slopes, columns[:, others], np.ones(len(columns))])
            inverse = np.linalg.pinv(design.T @ design, rcond=1e-6, hermitian=True)
            solved = inverse @ design.T @ (log_volumes - now)
            amounts[used] += solved[: len(used)]
            rest = log_volumes - now - design @ solved
            errors[used] = np.diag(inverse)[: len(used)] * (rest @ rest) / max(len(rest) - design.shape[1], 1)
        # What a volume says beyond the pattern counts as far as it is more than its own error.
        amounts *= np.maximum(1 - errors / np.maximum(amounts**2, 1e-12), 0)
        return whole[0] + amounts[:, None, None] * whole[1]

    def bent(self, motions: Motions) -> Float[np.ndarray, "columns points dims dims"]:
        """Return derivatives of smooth fields through motions."""
        return np.stack(
            [
                self.basis.field_slopes(self.points, own.reshape(self.basis.count, -1))[1]
                for own in self.fields.coefficients(motions)
            ]
        )

    def logs(
        self,
        columns: Columns,
        motions: Motions,
        outward: Motions,
        base: np.ndarray,
        per: np.ndarray,
        amounts: Float[np.ndarray, " columns"],
    ) -> Float[np.ndarray, " people"]:
        """Return log volumes, up to a constant, of the template moved to people's covariates."""
        dims = self.points.shape[1]
        away = self.points - self.points.mean(axis=0)
        places = away + np.einsum("nc,cpd->npd", columns, motions + amounts[:, None, None] * outward, optimize=True)
        bend = np.eye(dims) + np.einsum(
            "nc,cpde->npde", columns, base + amounts[:, None, None, None] * per, optimize=True
        )
        turned = np.linalg.solve(np.swapaxes(bend, 2, 3), np.broadcast_to(self.normals, places.shape)[..., None])[
            ..., 0
        ]
        volume = (places * turned).sum(axis=2) * np.linalg.det(bend)
        return np.asarray(np.log(np.maximum(volume.mean(axis=1), 1e-3 * np.abs(volume).mean())))


@dataclass(frozen=True, eq=False)
class FieldsThrough:
    """Smooth fields through motions at points: coefficients by least squares."""

    solver: Float[np.ndarray, "modes points"]

    @classmethod
    def of(cls, points: Points, basis: SmoothBasis) -> "FieldsThrough":
        """Prepare for these points."""
        modes = basis.at(points)
        square = modes.T @ modes + _RIDGE * len(points) * np.eye(basis.count)
        return cls(np.linalg.solve(square, modes.T))

    def coefficients(self, motions: Float[np.ndarray, "*many points dims"]) -> Float[np.ndarray, "*many coefficients"]:
        """Return the coefficients, mode-major."""
        found = np.einsum("mp,...pd->...md", self.solver, motions)
        return found.reshape(*motions.shape[:-2], -1)


def pulled_back(
    effects: SurfaceEffects, points: Points, basis: SmoothBasis, columns: Columns, groups: Sequence[Group]
) -> tuple[Float[np.ndarray, " coefficients"], Float[np.ndarray, "columns coefficients"]]:
    """Return coefficients of fields that bring moved points back: that of the mean, and those of the columns of the design.

    g(w + d) = -d at people's covariates, with d made smooth before, for columns where the mean has moved w.
    """
    through = FieldsThrough.of(points, basis)

    def smooth(motion: Points) -> Points:
        return basis.field(points, through.coefficients(motion).reshape(basis.count, -1))

    rows = np.zeros((columns.shape[1], basis.count * points.shape[1]))
    motions, mean = np.stack([smooth(own) for own in effects.motions]), smooth(effects.mean)
    for group in groups:
        parts = [group.columns] if not group.exchangeable else [
            slice(k, k + 1) for k in range(group.columns.start, group.columns.stop)
        ]  # fmt: skip
        for part in parts:
            rows[part] = _pulled(motions[part], points + mean, basis, columns[:, part])
    return _pulled(mean[None], points, basis, np.ones((1, 1)))[0], rows


def _pulled(
    motions: Motions, home: Points, basis: SmoothBasis, columns: Columns
) -> Float[np.ndarray, "columns coefficients"]:
    count, dims = len(motions), home.shape[1]
    order = np.argsort(columns[:, 0], kind="stable")
    some = columns[order[np.unique(np.linspace(0, len(order) - 1, _SAMPLES).astype(int))]]
    some = some[np.abs(some).max(axis=1) > 0]
    if not len(some):
        return np.zeros((count, basis.count * dims))
    square = np.zeros((count, basis.count, count, basis.count))
    target = np.zeros((count, basis.count, dims))
    for own in some:
        motion = np.einsum("c,cpd->pd", own, motions)
        modes = basis.at(home + motion)
        square += np.einsum("c,e,mk->cmek", own, own, modes.T @ modes)
        target -= np.einsum("c,md->cmd", own, modes.T @ motion)
    size = count * basis.count
    # The ridge counts as in `FieldsThrough`, in units of what the columns are.
    weight = (some**2).sum(axis=0) + 1e-9
    whole = square.reshape(size, size) + np.diag(np.repeat(weight, basis.count) * _EXACT * len(home))
    found = np.linalg.solve(whole, target.reshape(size, dims))
    return found.reshape(count, basis.count * dims)
