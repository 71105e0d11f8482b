"""Means and deviations of columns among people, whatever is missing, and some people of many."""

import numpy as np
from jaxtyping import Float, Int

_PEOPLE = 500


def evenly(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Return positions from 0 to count - 1, all of them or evenly taken."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(most, count)).astype(int))


def known_mean(data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " columns"]:
    """Return the mean of what is known of each column; 0 where nothing is."""
    known = np.isfinite(data)
    return np.where(known, data, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def known_spread(data: Float[np.ndarray, "people columns"]) -> Float[np.ndarray, " columns"]:
    """Return the standard deviation of each column: of 500 people at most, evenly taken; 0 where nothing is known."""
    some = np.asarray(data[evenly(len(data), _PEOPLE)])
    return np.sqrt(known_mean((some - known_mean(some)) ** 2))
