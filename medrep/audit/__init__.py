"""What can be read off a cohort: which covariates tell which, and what is left to read after removal."""
