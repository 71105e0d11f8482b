"""``python -m medrep``."""

import sys

from medrep.cli import main

sys.exit(main())
