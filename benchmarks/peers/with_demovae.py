"""Adapter for demovae 0.0.6: an autoencoder whose decoder gets the covariates, as published; one fit gives several outputs."""

from __future__ import annotations

import random
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from demovae.sklearn import DemoVAE

VERSION = f"demovae {version('demovae')}"
KINDS = {"age": "continuous", "sex": "categorical", "site": "categorical"}


class Peer:
    """DemoVAE with age, sex and site as far as the table has them, fitted on some people and applied to others.

    The reference of a covariate is its mean (age) or its most frequent level (sex, site) in training.

    Args:
        age_bounds: Ignored: age has no spline, it enters in years.
        scaled: Features are standardised with training mean and SD before the fit, and what is decoded is scaled back.
        reference: The site everybody is moved to; None for the most frequent in training.
        seed: Of the weights and of every draw, which demovae takes from the global generators.
        settings: Of DemoVAE, where they are not to be as published: nepochs (3000), latent_dim (60), ...
    """

    def __init__(
        self,
        age_bounds: tuple[float, float] | None,  # noqa: ARG002
        scaled: bool,
        reference: str | None = None,
        seed: int = 0,
        **settings: float,
    ) -> None:
        self._scaled, self._site, self._seed = scaled, reference, seed
        self._model = DemoVAE(use_cuda=False, **settings)  # in one call: set_params() resets what it is not given

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Train the autoencoder on people x features and their age, sex and site."""
        random.seed(self._seed)
        np.random.seed(self._seed)  # noqa: NPY002
        torch.manual_seed(self._seed)
        width = features.shape[1]
        self._mean = features.mean(axis=0) if self._scaled else np.zeros(width)
        self._sd = features.std(axis=0) if self._scaled else np.ones(width)
        self._reference = {
            name: table[name].mean() if kind == "continuous" else table[name].mode()[0]
            for name, kind in KINDS.items()
            if name in table
        }
        self._reference["site"] = self._site or self._reference["site"]
        self._model.fit(self._scale(features), *_covariates(table))

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Return new people decoded with their own age and sex and the reference site."""
        return self._decode(self._scale(features), table.assign(site=self._reference["site"]))

    def extras(self, features: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return what else the fit makes of new people: their latents, and decodings in the units of the features.

        Returns:
            latents: People x latents, without their covariates.
            reconstruction: Decoded with their own covariates.
            site_removed: Decoded with the reference site, as in `apply`.
            all_removed: Decoded with every covariate at its reference.
            sampled: Random latents decoded with their covariates.
        """
        scaled = self._scale(features)
        return {
            "latents": self._model.get_latents(scaled),
            "reconstruction": self._decode(scaled, table),
            "site_removed": self.apply(features, table),
            "all_removed": self._decode(scaled, table.assign(**self._reference)),
            "sampled": self._decode(len(table), table),
        }

    def _scale(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._sd

    def _decode(self, people: np.ndarray | int, table: pd.DataFrame) -> np.ndarray:
        """Decode scaled features, or as many random latents as people are asked for, with the covariates of a table."""
        return self._model.transform(people, *_covariates(table)) * self._sd + self._mean


def _covariates(table: pd.DataFrame) -> tuple[list[np.ndarray], list[str]]:
    names = [name for name in KINDS if name in table]
    return [table[name].to_numpy(dtype=float if name == "age" else object) for name in names], [KINDS[n] for n in names]
