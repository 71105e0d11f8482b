"""What is written: derivatives of a cohort, cohorts with planted effects, pictures."""
