"""Probes: predictors trained on some people that read covariates of others."""
