"""Adapter for contrastive 1.2: contrastive PCA against controls (background)."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from contrastive import CPCA

VERSION = f"contrastive {version('contrastive')}"


class Peer:
    """Contrastive PCA with the foreground, patients or everybody, and the contrast that tell training people apart best.

    Args:
        age_bounds: Ignored.
        components: How many contrastive components there are, two or more.
        common: How many principal components of what is orthogonal to these.
        reference: Ignored.
        seed: Ignored: nothing is drawn.
    """

    def __init__(
        self,
        age_bounds: tuple[float, float] | None,  # noqa: ARG002
        components: int = 2,
        common: int = 10,
        reference: str | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> None:
        self._components, self._common = components, common

    def fit(self, features: np.ndarray, table: pd.DataFrame) -> None:
        """Find directions in which the foreground varies more than controls do."""
        self._mean, self._sd = features.mean(axis=0), features.std(axis=0)
        rows, patient = self._standardised(features), (table["diagnosis"] == "patient").to_numpy()
        found = []
        for foreground in (rows[patient], rows):
            peer = CPCA(n_components=self._components, standardize=False)
            peer.fit(foreground, rows[~patient])
            found += [self._directions(peer, alpha) for alpha in (0.0, *np.logspace(-1, 3, 40))]
        self._salient = max(found, key=lambda own: _gap(rows @ own, patient))
        rest = rows - rows @ self._salient @ np.linalg.pinv(self._salient)
        self._rest = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)[2][: self._common].T

    def _directions(self, peer: CPCA, alpha: float) -> np.ndarray:
        """Return what `cpca_alpha` multiplies data with."""
        width = len(self._mean)
        return np.real(peer.cpca_alpha(np.eye(width), alpha))

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._sd

    def apply(self, features: np.ndarray, table: pd.DataFrame) -> np.ndarray:  # noqa: ARG002
        """Return people as they are: there is nothing that it removes."""
        return features

    def extras(self, features: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return contrastive components, then principal components of what is orthogonal to them."""
        rows = self._standardised(features)
        rest = rows - rows @ self._salient @ np.linalg.pinv(self._salient)
        return {"latents": np.concatenate([rows @ self._salient, rest @ self._rest], axis=1)}


def _gap(scores: np.ndarray, patient: np.ndarray) -> float:
    """Return the squared Mahalanobis distance of patients' mean from controls'."""
    gap = scores[patient].mean(axis=0) - scores[~patient].mean(axis=0)
    within = sum(np.atleast_2d(np.cov(part, rowvar=False)) for part in (scores[patient], scores[~patient])) / 2
    return float(gap @ np.linalg.pinv(within) @ gap)
