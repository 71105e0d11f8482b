"""A scanner that was estimated has to bring its people nearer to the anchor's, or it is not believed."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from medrep.models.scanner.frame import Frame
from medrep.models.scanner.images import Image
from medrep.models.scanner.restoration import Restoration
from medrep.models.scanner.scanner import Rendering, Scanner
from medrep.models.scanner.way_back import straighten_and_restore

_Undo = Callable[[Image], np.ndarray]


def brings_nearer(
    frame: Frame, scanner: Scanner, way_back: Restoration, own: Sequence[Image], anchor: Sequence[Image]
) -> bool:
    """Tell whether undoing a scanner brings the mean image of its people nearer to that of the anchor's people.

    With few people, or a scanner that is none of the family's, the estimate can be far off; the mean image shows it.

    Args:
        frame: Where scanners look.
        scanner: As estimated.
        way_back: Its way back.
        own: People of the scanner.
        anchor: People of the anchor.
    """
    if not own or not anchor:
        return True
    rendering = Rendering(frame, scanner)
    wanted = _mean(anchor, lambda image: image.values())
    as_it_is = _mean(own, lambda image: image.values())
    undone = _mean(own, lambda image: straighten_and_restore(image.values(), image.box, rendering, way_back))
    seen = np.isfinite(wanted) & np.isfinite(as_it_is)
    before, after = (float(((mean - wanted)[seen] ** 2).sum()) for mean in (as_it_is, undone))
    return after <= before


def _mean(images: Sequence[Image], undo: _Undo) -> Float[np.ndarray, "x y z"]:
    """Return the mean content at each voxel of the common grid, NaN where nobody has any."""
    total, people = np.zeros(images[0].shape), np.zeros(images[0].shape)
    for image in images:
        total[image.box] += undo(image)
        people[image.box] += 1
    return np.divide(total, people, out=np.full(total.shape, np.nan), where=people > 0)
