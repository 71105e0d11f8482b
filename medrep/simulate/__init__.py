"""Cohorts with known effects: people, feature tables and brains, and effects to plant in a user's own data.

Every random step takes a seed; nothing here writes a file. What is a person's own (identity, folds, noise) depends on
the seed and the id alone, so the same person drawn at another age or site is a true counterfactual. In reading order:
`participants`, `features`, `brains`, `brain_rendering`, `displaced` shapes (`organs`, flat `starman`), `plant`.
"""

from medrep.simulate.brains import (
    BRAIN_EFFECTS,
    Brain,
    BrainEffects,
    brain_truth,
    draw_brains,
    render_brain,
)
from medrep.simulate.covariate_effects import (
    CovariateEffect,
    FeatureCovariateEffect,
    apply_covariate_effect,
    apply_feature_covariate_effect,
    draw_covariate_effect,
    draw_feature_covariate_effect,
)
from medrep.simulate.displaced import (
    CovariateField,
    Displaced,
    DisplacedCohort,
    DisplacedShape,
    displacement,
    draw_starmen,
    identity_displacement,
    level,
    starman_family,
)
from medrep.simulate.features import SimulatedFeatures, simulate_features
from medrep.simulate.geometry import outward_normal, surface_points
from medrep.simulate.organs import (
    draw_organs,
    organ_family,
    organ_grid,
    organ_truth,
    render_organ,
)
from medrep.simulate.participants import simulate_participants
from medrep.simulate.shape_effects import (
    SHAPE_EFFECT,
    ShapeEffect,
    apply_shape_effect,
    draw_shape_effect,
    pad_for_shape_effect,
)
from medrep.simulate.site_effects import (
    NO_SITE_EFFECT,
    FeatureSiteEffect,
    SiteEffect,
    apply_feature_site_effects,
    apply_site_effect,
    draw_feature_site_effects,
    draw_site_effects,
)

__all__ = [
    "BRAIN_EFFECTS",
    "NO_SITE_EFFECT",
    "SHAPE_EFFECT",
    "Brain",
    "BrainEffects",
    "CovariateEffect",
    "CovariateField",
    "Displaced",
    "DisplacedCohort",
    "DisplacedShape",
    "FeatureCovariateEffect",
    "FeatureSiteEffect",
    "ShapeEffect",
    "SimulatedFeatures",
    "SiteEffect",
    "apply_covariate_effect",
    "apply_feature_covariate_effect",
    "apply_feature_site_effects",
    "apply_shape_effect",
    "apply_site_effect",
    "brain_truth",
    "displacement",
    "draw_brains",
    "draw_covariate_effect",
    "draw_feature_covariate_effect",
    "draw_feature_site_effects",
    "draw_organs",
    "draw_shape_effect",
    "draw_site_effects",
    "draw_starmen",
    "identity_displacement",
    "level",
    "organ_family",
    "organ_grid",
    "organ_truth",
    "outward_normal",
    "pad_for_shape_effect",
    "render_brain",
    "render_organ",
    "simulate_features",
    "simulate_participants",
    "starman_family",
    "surface_points",
]
