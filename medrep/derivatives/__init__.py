"""What is written: derivatives of a cohort, cohorts with planted effects, pictures."""

import sys

from medrep import Verb

sys.modules[__name__].__class__ = Verb
