"""The linear model: smooth covariate effects, and location and scale of batches."""
