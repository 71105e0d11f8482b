"""Known effects for anybody's volumes and feature tables: draw the parameters first, then apply them."""

from medrep.simulate.plant.covariate import (
    CovariateEffect,
    FeatureCovariateEffect,
    apply_covariate_effect,
    apply_feature_covariate_effect,
    draw_covariate_effect,
    draw_feature_covariate_effect,
)
from medrep.simulate.plant.curve import ContinuousCurve, LevelCurve, strength
from medrep.simulate.plant.feature_site import (
    FeatureSiteEffect,
    apply_feature_site_effects,
    draw_feature_site_effects,
)
from medrep.simulate.plant.field import WaveField, legendre_field, wave_field
from medrep.simulate.plant.site import NO_SITE_EFFECT, SiteEffect, apply_site_effect, draw_site_effects

__all__ = [
    "NO_SITE_EFFECT",
    "ContinuousCurve",
    "CovariateEffect",
    "FeatureCovariateEffect",
    "FeatureSiteEffect",
    "LevelCurve",
    "SiteEffect",
    "WaveField",
    "apply_covariate_effect",
    "apply_feature_covariate_effect",
    "apply_feature_site_effects",
    "apply_site_effect",
    "draw_covariate_effect",
    "draw_feature_covariate_effect",
    "draw_feature_site_effects",
    "draw_site_effects",
    "legendre_field",
    "strength",
    "wave_field",
]
