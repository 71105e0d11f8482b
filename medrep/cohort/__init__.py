"""Reading: a table and its files -> checked people, covariates and matrices."""
