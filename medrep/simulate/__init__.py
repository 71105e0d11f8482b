"""Cohorts with known effects: people, feature tables and brains, and effects to plant in a user's own data.

Every random step takes a seed; nothing here writes a file. What is a person's own (identity, folds, noise) depends on
the seed and the id alone, so the same person drawn at another age or site is a true counterfactual. In reading order:
`participants`, `features`, `brains`, `brain_rendering`, `plant`.
"""

from medrep.simulate.brain_rendering import render_brain
from medrep.simulate.brains import BRAIN_EFFECTS, Brain, BrainEffects, brain_truth, draw_brains
from medrep.simulate.features import SimulatedFeatures, simulate_features
from medrep.simulate.participants import simulate_participants
from medrep.simulate.plant import (
    NO_SITE_EFFECT,
    CovariateEffect,
    FeatureCovariateEffect,
    FeatureSiteEffect,
    SiteEffect,
    apply_covariate_effect,
    apply_feature_covariate_effect,
    apply_feature_site_effects,
    apply_site_effect,
    draw_covariate_effect,
    draw_feature_covariate_effect,
    draw_feature_site_effects,
    draw_site_effects,
)

__all__ = [
    "BRAIN_EFFECTS",
    "NO_SITE_EFFECT",
    "Brain",
    "BrainEffects",
    "CovariateEffect",
    "FeatureCovariateEffect",
    "FeatureSiteEffect",
    "SimulatedFeatures",
    "SiteEffect",
    "apply_covariate_effect",
    "apply_feature_covariate_effect",
    "apply_feature_site_effects",
    "apply_site_effect",
    "brain_truth",
    "draw_brains",
    "draw_covariate_effect",
    "draw_feature_covariate_effect",
    "draw_feature_site_effects",
    "draw_site_effects",
    "render_brain",
    "simulate_features",
    "simulate_participants",
]
