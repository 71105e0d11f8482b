"""Between data and what is left of them once some covariates are accounted for by the linear layer.

With S the covariates that count as known, b the batches among them and f their effects (`linear.py` has the symbols):

    h = (x - alpha - sum_{k in S} f_k(c_k) - sigma gamma_b) / (sigma delta_b)

What is not in S stays in h, as a part of the person: whoever removes S alone never looks at the labels of the others. An
interaction of some in S with others is the one exception: how far an effect of S goes depends on the others' own values. It
is taken out as f(c_S, c) - f(mean of S, c), so that what stays in h is the others' effect at the mean of S
(`Design.moved_effects`); the others' own effects are never touched.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep.models.blocks import map_blocks, read_block, release_pages
from medrep.models.linear import LinearModel


def standardise(
    linear: LinearModel,
    data: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    known: Collection[str],
    out: Float[np.ndarray, "people columns"] | None = None,
) -> Float[np.ndarray, "people columns"]:
    """Return h; 0 where a cell is NaN, a point mass or of a level without an effect there, and in columns left as they are.

    Args:
        linear: The fitted layer.
        data: In their own units.
        frame: Covariates; what is outside ``known``, and interacts with nothing in it, is not looked at.
        known: S.
        out: Where to write; by default a new float32 matrix.
    """
    h = np.empty(data.shape, np.float32) if out is None else out
    effects, levels = _designs(linear, frame, known)
    members = linear.support.of(frame, known)

    def work(part: slice) -> None:
        mean, scale = _moments(linear, effects, levels, part)
        sd = linear.sd[part]
        own = read_block(data, part)
        block = (own - mean) / scale * np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
        exempt = linear.exempt(own, members, part)
        if exempt is not None:
            block[exempt] = 0
        h[:, part] = np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        release_pages(h)

    for _ in map_blocks(len(frame), linear.columns.count, work):
        pass
    return h


def unstandardise(
    linear: LinearModel,
    h: Float[np.ndarray, "people columns"],
    frame: pd.DataFrame,
    known: Collection[str],
    data: Float[np.ndarray, "people columns"],
    out: Float[np.ndarray, "people columns"],
    *,
    drawn: bool = False,
) -> Float[np.ndarray, "people columns"]:
    """Return the data that have the residual h under ``frame``: the inverse of `standardise`.

    Args:
        linear: The fitted layer.
        h: Residuals.
        frame: Covariates, for instance moved to the reference.
        known: S.
        data: What the people had; columns without a fit, NaN cells and point masses are taken from here.
        out: Where to write; ``data`` itself is allowed.
        drawn: Whether nobody has these data, so that cells of fitted columns mean nothing.
    """
    effects, levels = _designs(linear, frame, known)

    def work(part: slice) -> None:
        mean, scale = _moments(linear, effects, levels, part)
        own = read_block(data, part)
        moved = np.where(linear.sd[part] > 0, mean + linear.sd[part] * scale * h[:, part], own)
        masses = None if drawn else linear.masses.within(own, part)
        if masses is not None:
            moved[masses] = own[masses]
        out[:, part] = np.where(np.isfinite(own), moved, own)
        release_pages(out)

    for _ in map_blocks(len(frame), linear.columns.count, work):
        pass
    return out


def batch_scale(
    linear: LinearModel, frame: pd.DataFrame, known: Collection[str]
) -> Float[np.ndarray, "people columns"]:
    """Return delta_b of everybody in every column; 1 for batches that do not count as known."""
    _, levels = _designs(linear, frame, known)
    return linear.scale(levels, linear.batches.log_scale)


def _designs(linear: LinearModel, frame: pd.DataFrame, known: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    seen = linear.design.looked_at(known)
    hidden = {name: linear.schema[name].reference for name in linear.schema.names if name not in seen}
    neutral = frame.assign(**{name: [value] * len(frame) for name, value in hidden.items()})
    effects, levels = linear.design.moved_effects(neutral, known), linear.design.batches(neutral)
    for name, part in linear.design.batch_slices().items():
        levels[:, part] *= name in known
    return effects, levels


def _moments(
    linear: LinearModel, effects: np.ndarray, levels: np.ndarray, part: slice
) -> tuple[Float[np.ndarray, "people block"], Float[np.ndarray, "people block"]]:
    scale = linear.scale(levels, linear.batches.log_scale[:, part])
    return linear.mean(effects, levels, scale, part), scale
