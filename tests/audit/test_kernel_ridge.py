import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV

from medrep.audit.data import compact
from medrep.audit.utility import out_of_fold

N = 60
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(N, 5))
FOLDS = np.arange(N) % 4
PENALTIES = [0.1, 1.0, 10.0, 100.0, 1000.0]


def targets() -> np.ndarray:
    """Return a straight one, one that only the RBF kernel reads, and noise."""
    y = np.stack([TABLE[:, 0] + 0.3 * RNG.normal(size=N), TABLE[:, 1] ** 2, RNG.normal(size=N)], axis=1)
    return y - y.mean(axis=0)


@pytest.mark.parametrize("column", range(3))
def test_it_is_the_nested_choice_of_the_peer(column):
    rows, y = compact(TABLE, 0), targets()
    found = out_of_fold(rows, y, FOLDS)[:, column]
    grid = [
        {"kernel": ["linear"], "alpha": PENALTIES},
        {"kernel": ["rbf"], "gamma": [0.1, 0.5, 2.5], "alpha": PENALTIES},
    ]
    for fold in range(4):
        train, test = np.flatnonzero(fold != FOLDS), np.flatnonzero(fold == FOLDS)
        inner = [
            (np.flatnonzero(FOLDS[train] != other), np.flatnonzero(FOLDS[train] == other))
            for other in range(4)
            if other != fold
        ]
        search = GridSearchCV(KernelRidge(), grid, scoring="neg_mean_squared_error", cv=inner)
        search.fit(rows[train], y[train, column])
        np.testing.assert_allclose(found[test], search.predict(rows[test]), atol=1e-8)


def test_targets_do_not_see_each_other_nor_their_own_fold():
    rows, y = compact(TABLE, 0), targets()
    together = out_of_fold(rows, y, FOLDS)
    np.testing.assert_allclose(out_of_fold(rows, y[:, [0]], FOLDS)[:, 0], together[:, 0])
    other = y.copy()
    other[FOLDS == 2] = 100.0
    np.testing.assert_allclose(out_of_fold(rows, other, FOLDS)[FOLDS == 2], together[FOLDS == 2])
