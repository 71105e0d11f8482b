"""Resampling and exchanging people, with the sessions of a participant held together; intervals and p-values from it."""
