"""Derivatives: files that medrep writes of a cohort, cohorts with planted effects, and figures."""
