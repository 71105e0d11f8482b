"""Audits of cohorts and models: leakage, utility, identity, fairness and counterfactuals."""

import sys

from medrep import Verb

sys.modules[__name__].__class__ = Verb
