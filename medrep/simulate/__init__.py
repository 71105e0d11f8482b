"""Cohorts with known effects: people, feature tables, brains and organs, and effects to plant in a user's own data.

Every random step takes a seed; nothing here writes a file. What is a person's own (identity, folds, noise) depends on
the seed and the id alone, so the same person drawn at another age or site is a true counterfactual. In reading order:
`participants`, `features`, `brains`, `displaced` shapes such as organs, and effects: `planted_effects` and `shape_effects`.
"""

from medrep.simulate.features import simulate_features
from medrep.simulate.participants import simulate_participants

__all__ = ["simulate_features", "simulate_participants"]
