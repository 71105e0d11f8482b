"""What can be read off a cohort: which covariates tell which, and what is left to read after removal."""

import sys

from medrep import Verb

sys.modules[__name__].__class__ = Verb
