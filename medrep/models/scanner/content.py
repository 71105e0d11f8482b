"""Where a placed volume holds voxels of its own: padding repeats the border, a mask leaves zeros; both say nothing."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import binary_dilation, binary_erosion

Box = tuple[slice, slice, slice]

_FEW = 0.02
_AROUND = np.ones((3, 3, 3), dtype=bool)


def content_box(volume: Float[np.ndarray, "x y z"]) -> Box:
    """Return the box outside of which every slice repeats its neighbour, as padding with border values does.

    Args:
        volume: One volume on the common grid; NaN counts as equal to NaN.

    Returns:
        One slice an axis; the whole volume along an axis on which nothing varies.
    """
    first, second, third = (_inside(np.moveaxis(volume, axis, 0)) for axis in range(3))
    return first, second, third


def void(image: Float32[np.ndarray, "a b c"]) -> Bool[np.ndarray, "a b c"] | None:
    """Return what a mask left empty: zeros in or beside a 3 x 3 x 3 block of zeros; None where zeros are rare, so no mask is."""
    zero = image == 0
    if zero.mean() < _FEW:
        return None
    # A content box leaves but one slice of an empty side; the border repeats, as padding does.
    blocks = binary_dilation(binary_erosion(np.pad(zero, 1, mode="edge"), _AROUND, border_value=1), _AROUND)
    empty: np.ndarray = zero & blocks[1:-1, 1:-1, 1:-1]
    return empty


def filled(volume: Float[np.ndarray, "a b c"]) -> Float32[np.ndarray, "a b c"]:
    """Return a float32 copy with the median in place of NaN and infinite voxels."""
    known = np.isfinite(volume)
    copy = volume.astype(np.float32)
    if not known.all():
        copy[~known] = np.median(volume[known]) if known.any() else 0
    return copy


def change_content(
    volume: Float[np.ndarray, "x y z"],
    template: Float[np.ndarray, "x y z"],
    change: Callable[[Float32[np.ndarray, "a b c"], Box], Float32[np.ndarray, "a b c"]],
) -> None:
    """Change a volume in place where ``template`` has content; what is not finite or was left empty stays as it is."""
    box = content_box(template)
    inside, seen = volume[box], filled(volume[box])
    empty, keep = void(seen), np.isfinite(inside)
    volume[box] = np.where(keep if empty is None else keep & ~empty, change(seen, box), inside)


def is_flat(volume: Float[np.ndarray, "x y z"]) -> bool:
    """Return whether a volume has no two different values, and so nothing that a scanner could be told from."""
    known = volume[np.isfinite(volume)]
    return not len(known) or bool(known.min() == known.max())


def _inside(slices: Float[np.ndarray, "n a b"]) -> slice:
    below, above = slices[:-1], slices[1:]
    changes = ((below != above) & ~(np.isnan(below) & np.isnan(above))).any(axis=(1, 2))
    where = np.flatnonzero(changes)
    return slice(int(where[0]), int(where[-1]) + 2) if len(where) else slice(0, len(slices))
