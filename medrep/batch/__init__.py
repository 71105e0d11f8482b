"""Work on a cohort that survives what can happen to it: parts, markers of what was tried, workers that may die, resume, merge."""
