"""Ordered latents: a latent that moves with a continuous covariate such as age, along one curve that all columns share.

    E z = (a - mean) / sd,    effect of a on column v: b_v g(z),    g monotone, a straight line beyond the people of training

The linear layer's smooth effects f_v (a natural spline a column) become b_v g: of all such products the one that is nearest to
what was estimated, in the metric of its errors (reduced-rank regression, Izenman 1975), with g monotone on a grid (least
distance programming, Lawson & Hanson 1974). One curve is told by all columns together, and so is its slope at either end, with
which it goes on. How bent it is, is what tells the youngest and the oldest best where they are left out (`chosen_degrees`): a
bend that training tells well may say nothing of what comes beyond. What a person has of their own along b stays in the
residual, and in the other latents: the network sees residuals without the effect, and is told that the covariate is known, not
its value, since nobody knows what it would make of values that it never saw.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import nnls

from medrep.cohort.covariates import Continuous, CovariateSchema
from medrep.cohort.dataset import Dataset
from medrep.errors import CovariateError, ModelError
from medrep.models.linear.design import natural_spline
from medrep.models.linear.model import LinearModel
from medrep.models.linear.settings import LinearSettings
from medrep.models.vae.components import FactorModel
from medrep.models.vae.residuals import standardise

_GRID, _OUTER = 256, 0.25
_BEYOND, _FINE = 2.0, 4001  # spans of the knots beyond them; values at which a curve is turned round


def check_ordered(names: Sequence[str], schema: CovariateSchema, interactions: Sequence[Sequence[str]]) -> None:
    """Refuse covariates that no ordered latent can have.

    Raises:
        ModelError: All of them, and what is allowed.
    """
    can = [name for name in schema.names if isinstance(schema[name], Continuous)]
    wrong = [
        f"settings.roles.ordered has {name}; give continuous covariates ({', '.join(can) or 'there are none'})"
        for name in names
        if name not in can
    ]
    wrong += [
        f"settings.roles.ordered has {name}, and settings.linear.interactions [{', '.join(group)}]; leave out one of them"
        for name in names
        for group in interactions
        if name in group
    ]
    if wrong:
        raise ModelError("; ".join(wrong))


def chosen_degrees(dataset: Dataset, settings: LinearSettings, names: Sequence[str]) -> int:
    """Return how bent curves may be: as tells people beyond others best.

    For each number of degrees the youngest quarter and the oldest one (of each covariate) are left out, and expected from the
    others' curve and the straight line at its end. The smallest number is taken whose squared error is no more than a standard
    error (over people) above the least one (Breiman et al. 1984). Of columns with a grid it is as set.

    Args:
        dataset: People of training.
        settings: Of the linear layer; its degrees are the most.
        names: The ordered covariates.
    """
    if dataset.columns.grid is not None or settings.spline_degrees == 1:
        return settings.spline_degrees
    tried = range(1, settings.spline_degrees + 1)
    errors: dict[int, list[np.ndarray]] = {degrees: [] for degrees in tried}
    scale = np.maximum(np.nanstd(dataset.values, axis=0), 1e-300)
    for name in names:
        values = dataset.covariates[name].to_numpy(float)
        low, high = np.quantile(values, [_OUTER, 1 - _OUTER])
        for out in (values < low, values > high):
            rest = dataset.take(~out)
            batches = [dataset.covariates[one] for one in dataset.schema.batches]
            known = np.all([own.isin(set(own[~out])) for own in batches], axis=0) if batches else True
            some = dataset.take(out & known)
            for degrees in tried:
                try:
                    fitted, _ = LinearModel.fit(rest, replace(settings, components=0, spline_degrees=degrees))
                except (CovariateError, ModelError):
                    return settings.spline_degrees  # too few people to tell
                linear = ordered_effects(fitted.pooled(), names)
                missed = standardise(linear, some.values, some.covariates, some.schema.names) * linear.sd / scale
                errors[degrees].append((missed.astype(np.float64) ** 2).sum(axis=1))
    of_people = np.stack([np.concatenate(errors[degrees]) for degrees in tried])
    if not of_people.size:  # nobody beyond is of a batch that others are of
        return settings.spline_degrees
    above = of_people - of_people[of_people.mean(axis=1).argmin()]
    error = above.std(axis=1) / above.shape[1] ** 0.5
    return int(np.flatnonzero(above.mean(axis=1) <= error)[0]) + 1


def ordered_effects(linear: LinearModel, names: Sequence[str]) -> LinearModel:
    """Return a linear model in which effects of some covariates are those of ordered latents.

    Args:
        linear: Fitted.
        names: Continuous covariates that interact with nothing (`check_ordered`).
    """
    coefficients, start = np.array(linear.coefficients), 1
    varies = linear.sd > 0
    for term in linear.design.terms:
        rows = slice(start, start + len(term.centre))
        start = rows.stop
        if term.covariates[0] in names and len(term.covariates) == 1:
            knots = linear.design.knots[term.covariates[0]]
            found = coefficients[rows][:, varies] / linear.sd[varies]
            curve, loadings = common_curve(found, linear.effect_covariance[rows, rows], knots)
            coefficients[rows, varies] = np.outer(curve, loadings) * linear.sd[varies]
    return replace(linear, coefficients=coefficients)


def positions(
    linear: LinearModel,
    factors: FactorModel,
    h: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, " people"]]:
    """Return where people lie on the curves of ordered latents, in units of each covariate.

    Of what a person has of their own, d = b' S^-1 h / b' S^-1 b is along the effect b, with S the covariance of h (generalised
    least squares, so that nobody is drawn to the mean); the position is the value at which the curve is g(value) + d. Where the
    curve is flat at an end, it is the end.

    Args:
        linear: Of `ordered_effects`.
        factors: Factor model of h.
        h: Residuals with all covariates known.
        frame: Covariates of each.
        names: The covariates.
    """
    found, start = dict[str, np.ndarray](), 1
    for term in linear.design.terms:
        rows = slice(start, start + len(term.centre))
        start = rows.stop
        name = term.covariates[0]
        if name not in names or len(term.covariates) > 1:
            continue
        knots = linear.design.knots[name]
        per_sd = np.divide(1, linear.sd, out=np.zeros_like(linear.sd), where=linear.sd > 0)
        left, values, right = np.linalg.svd(linear.coefficients[rows] * per_sd, full_matrices=False)
        curve, effect = left[:, 0], values[0] * right[0]
        span = knots[-1] - knots[0]
        grid = np.linspace(knots[0] - _BEYOND * span, knots[-1] + _BEYOND * span, _FINE)
        height = natural_spline(grid, knots) @ curve
        sign = 1.0 if height[-1] >= height[0] else -1.0
        functional = factors.solve(effect[:, None])[:, 0]
        own = h @ functional / max(float(effect @ functional), 1e-300)
        there = natural_spline(frame[name].to_numpy(float), knots) @ curve + own
        found[name] = np.interp(sign * there, np.maximum.accumulate(sign * height), grid)
    return found


def common_curve(
    effects: Float[np.ndarray, "degrees columns"],
    covariance: Float[np.ndarray, "degrees degrees"],
    knots: tuple[float, ...],
) -> tuple[Float[np.ndarray, " degrees"], Float[np.ndarray, " columns"]]:
    """Return the monotone curve that tells most of all columns' effects, in the spline's basis, and each column's share of it.

    Args:
        effects: Coefficients of the columns, in units of their residual deviation.
        covariance: Of their errors, the same for every column.
        knots: Of the spline.
    """
    values, axes = np.linalg.eigh(covariance)
    root = (axes / np.sqrt(np.maximum(values, 1e-12 * values.max()))) @ axes.T
    left, _, _ = np.linalg.svd(root @ effects, full_matrices=False)
    curve = np.linalg.solve(root, left[:, 0])
    span = knots[-1] - knots[0]
    grid = np.linspace(knots[0], knots[-1], _GRID + 1)
    slopes = np.diff(natural_spline(grid, knots), axis=0) * (_GRID / span)
    curve = curve * (1 if float((slopes @ curve).sum()) >= 0 else -1)
    curve = _nearest_monotone(curve, root, slopes)
    white = root @ curve
    return curve, (white @ root @ effects) / float(white @ white)


def _nearest_monotone(
    curve: Float[np.ndarray, " degrees"],
    root: Float[np.ndarray, "degrees degrees"],
    slopes: Float[np.ndarray, "grid degrees"],
) -> Float[np.ndarray, " degrees"]:
    """Return the nearest curve of which no slope is negative, near being |root (new - old)|."""
    if (slopes @ curve).min() >= 0:
        return curve
    # min |d| subject to G d >= h, through non-negative least squares (Lawson & Hanson 1974, chapter 23).
    bounds = np.linalg.solve(root.T, slopes.T).T
    missing = -slopes @ curve
    size = float(np.linalg.norm(bounds, axis=1).max())
    matrix = np.concatenate([bounds.T / size, missing[None] / size])
    target = np.zeros(len(matrix))
    target[-1] = 1
    weights, _ = nnls(matrix, target)
    left = matrix @ weights - target
    return curve + np.linalg.solve(root, -left[:-1] / left[-1])
