"""What workers need, loaded once by the server that they are forked from: seconds of imports that none has to wait for."""

from contextlib import suppress

import medrep.batch.openers
import medrep.cohort.loaders
import medrep.export.volumes
from medrep.extras import ExtraError

with suppress(ExtraError):
    import medrep.cohort.shapes
    import medrep.export.shapes  # noqa: F401
