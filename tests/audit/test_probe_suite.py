import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from medrep.audit import probes
from medrep.audit.probe_figures import (
    AUC,
    NUMBER,
    permuted_figures,
    recentred,
    stratified_group_split,
    weighted_area,
    weighted_figures,
)
from medrep.audit.probes import PROBES, Coordinates, TrainingHalf, associated_columns, predict_unseen

TRAIN, TEST = np.arange(60), np.arange(60, 100)


def standardised(table: np.ndarray) -> np.ndarray:
    own = table[TRAIN]
    return (table - own.mean(axis=0)) / own.std(axis=0) / table.shape[1] ** 0.5


@pytest.mark.parametrize("columns", [5, 59, 60, 300, 5000])
def test_coordinates_keep_inner_products_and_distances(columns):
    rng = np.random.default_rng(columns)
    table = rng.normal(3, 2, (100, columns)) + rng.normal(size=(100, 1))
    at, rows = Coordinates.of(table, TRAIN, TEST), standardised(table)
    assert at.train.shape[1] == min(columns, 59)
    np.testing.assert_allclose(at.test @ at.train.T, rows[TEST] @ rows[TRAIN].T, atol=1e-8)
    np.testing.assert_allclose((at.test**2).sum(axis=1) + at.outside**2, (rows[TEST] ** 2).sum(axis=1), atol=1e-8)
    np.testing.assert_allclose(at.length, (rows**2).sum(axis=1), atol=1e-8)
    assert (np.diff((at.train**2).sum(axis=0)) <= 1e-9).all()


def test_constant_columns_do_not_count():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(100, 4))
    padded = np.concatenate([table, np.full((100, 3), 7.1), np.zeros((100, 200))], axis=1)
    np.testing.assert_allclose(
        np.abs(Coordinates.of(padded, TRAIN, TEST).test), np.abs(Coordinates.of(table, TRAIN, TEST).test), atol=1e-9
    )
    assert Coordinates.of(np.ones((100, 3)), TRAIN, TEST).test.shape == (40, 0)


def seen(table: np.ndarray, labels: np.ndarray) -> probes._Seen:
    at = Coordinates.of(table, TRAIN, TEST)
    outside = np.concatenate([np.zeros(60), at.outside])
    inside = np.concatenate([at.train, at.test])
    return probes._Seen(table, np.arange(100), inside, outside, at.length, labels, 0, 0)


def test_linear_and_rbf_are_what_they_would_be_on_all_columns():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(100, 400)) * rng.uniform(1, 3, 400)
    y = table[TRAIN, 0] + rng.normal(size=60)
    rows, target = standardised(table), (y - y.mean()) / y.std()
    known = seen(table, y)
    linear = probes._ridge(known, TRAIN, TEST, (0.1,))[0, :, 0]
    np.testing.assert_allclose(linear, Ridge(alpha=6.0).fit(rows[TRAIN], target).predict(rows[TEST]), atol=1e-7)
    rbf = probes._kernel_ridge(known, TRAIN, TEST, ((0.5, 0.1), (2.5, 1.0)))[:, :, 0]
    for own, (width, penalty) in zip(rbf, ((0.5, 0.1), (2.5, 1.0)), strict=True):
        model = KernelRidge(kernel="rbf", gamma=width, alpha=penalty).fit(rows[TRAIN], target)
        np.testing.assert_allclose(own, model.predict(rows[TEST]), atol=1e-7)


def told(table: np.ndarray, labels: np.ndarray, levels: int, seed: int = 0) -> dict[str, float]:
    half = len(table) // 2
    train, test = np.arange(half), np.arange(half, len(table))
    predictions = predict_unseen(table, TrainingHalf(train, labels[train], np.arange(half)), test, levels, seed)
    measure = AUC if levels else NUMBER
    figures = weighted_figures(predictions.scores, labels[test], np.ones((1, len(test))), measure)[0]
    return dict(zip(PROBES, figures, strict=True))


RNG = np.random.default_rng(5)
NOISE, TWO, THREE = RNG.normal(size=(300, 6)), RNG.integers(2, size=300), RNG.integers(3, size=300)


def planted(column: np.ndarray) -> np.ndarray:
    return np.concatenate([NOISE[:, :3], column[:, None]], axis=1)


def test_a_shift_is_told_by_every_probe():
    assert min(told(planted(2 * TWO + NOISE[:, 3]), TWO.astype(float), 2).values()) > 0.85
    assert min(told(planted(2 * THREE + NOISE[:, 3]), THREE.astype(float), 3).values()) > 0.75
    assert min(told(planted(THREE + NOISE[:, 3]), THREE + NOISE[:, 5] * 0.1, 0).values()) > 0.25


def test_a_difference_of_spread_is_told_by_the_nonlinear_ones_only():
    figures = told(planted(np.where(TWO == 1, 4.0, 0.5) * NOISE[:, 3]), TWO.astype(float), 2)
    assert figures["linear"] < 0.62
    assert min(figures[probe] for probe in PROBES if probe != "linear") > 0.75


def test_noise_is_not_told():
    for labels, levels, most in ((TWO.astype(float), 2, 0.65), (THREE.astype(float), 3, 0.62), (NOISE[:, 5], 0, 0.08)):
        assert max(told(NOISE[:, :4], labels, levels).values()) < most


def test_one_of_many_columns_that_differs_in_spread_is_found_by_boosting():
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(300, 1000))
    wide[:, 700] *= np.where(TWO == 1, 5.0, 0.3)
    assert 700 in associated_columns(wide, np.arange(150), TWO[:150], 2, 16)
    figures = told(wide, TWO.astype(float), 2)
    assert figures["boosting"] > 0.8
    assert figures["linear"] < 0.65


def test_associated_columns_of_a_number_may_be_bent():
    rng = np.random.default_rng(3)
    wide, age = rng.normal(size=(200, 100)), rng.normal(size=200)
    wide[:, 40] += age**2
    wide[:, 50] += age
    chosen = associated_columns(wide, np.arange(200), age, 0, 4)
    assert {40, 50} <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == 4
    assert associated_columns(wide[:, :3], np.arange(200), age, 0, 4).tolist() == [0, 1, 2]


def test_the_seed_decides_and_test_rows_teach_nothing():
    table, train, test = planted(TWO + NOISE[:, 3]), np.arange(150), np.arange(150, 300)
    half = TrainingHalf(train, TWO[train].astype(float), train)
    one, again = (predict_unseen(table, half, test, 2, 4).scores for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = table.copy()
    other[200:] = 50.0
    changed = predict_unseen(other, half, test, 2, 4).scores
    np.testing.assert_allclose(changed[:, :50], one[:, :50], atol=1e-9)


def test_a_table_without_columns_that_vary_tells_nothing():
    assert set(told(np.ones((100, 3)), TWO[:100].astype(float), 2).values()) == {0.5}
    assert set(told(np.zeros((100, 0)), NOISE[:100, 0], 0).values()) == {0.0}


def test_areas_of_weighted_people_are_those_of_repeated_people():
    rng = np.random.default_rng(0)
    scores, member = rng.integers(6, size=40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(3, size=(5, 40)).astype(float)
    for own, found in zip(weights, weighted_area(scores, member, weights), strict=True):
        rows = np.repeat(np.arange(40), own.astype(int))
        assert found == pytest.approx(roc_auc_score(member[rows], scores[rows]))
    assert np.isnan(weighted_area(scores, member, member[None].astype(float))).all()


@pytest.mark.parametrize("measure", [AUC, NUMBER])
def test_figures_of_exchanged_labels_are_figures_of_those_labels(measure):
    rng = np.random.default_rng(1)
    outputs = 3 if measure == AUC else 1
    scores = rng.integers(9, size=(2, 30, outputs)).astype(float)
    labels = (np.arange(30) % 3).astype(float) if measure == AUC else rng.normal(size=30)
    sources = np.stack([rng.permutation(30) for _ in range(6)])
    found = permuted_figures(scores, labels, sources, measure)
    for own, source in zip(found, sources, strict=True):
        same = weighted_figures(scores, labels[source], np.ones((1, 30)), measure)[0]
        np.testing.assert_allclose(own, same, atol=1e-12)
    if measure == NUMBER:
        r = np.corrcoef(scores[0, :, 0], labels[sources[0]])[0, 1]
        assert found[0, 0] == pytest.approx(r * abs(r))


def test_recentred_draws_have_the_estimate_as_their_mean():
    np.testing.assert_allclose(recentred(np.array([1.0, 3.0, np.nan]), 5.0), [4.0, 6.0])


def test_participants_are_dealt_whole_and_levels_in_equal_shares():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    labels = np.array(["a"] * 10 + ["b"] * 20 + ["c"] * 30, dtype=object)[who]
    for parts in (2, 3):
        part = stratified_group_split(who, labels, parts, rng)
        for person in range(60):
            assert len(set(part[who == person])) == 1
        for level, people in (("a", 10), ("b", 20), ("c", 30)):
            shares = [len(set(who[(part == k) & (labels == level)])) for k in range(parts)]
            assert max(shares) - min(shares) <= 1
            assert sum(shares) == people
