"""What workers need, loaded once by the server that they are forked from: seconds of imports that none has to wait for."""

import medrep.batch.openers
import medrep.cohort.loaders
import medrep.cohort.shapes
import medrep.export.shapes
import medrep.export.volumes  # noqa: F401
