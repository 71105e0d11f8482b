import numpy as np
import pandas as pd
import pytest
from sklearn.feature_selection import mutual_info_classif

from medrep.audit import disentanglement
from medrep.audit.disentanglement import (
    Source,
    audit_disentanglement,
    explicitness,
    info_scores,
    information,
    make_sources,
    unpruned,
)

N = 300
WHO = np.arange(N).astype(str).astype(object)


def people(seed: int = 0, n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"age": rng.uniform(20, 80, n), "sex": rng.choice(["F", "M"], n), "site": rng.choice(["A", "B", "C"], n)}
    )


def perfect(frame: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return a code with one latent for each source."""
    noise = 0.01 * np.random.default_rng([seed, 1]).normal(size=(len(frame), 3))
    levels = [pd.factorize(frame[name], sort=True)[0].astype(float) for name in ("sex", "site")]
    return np.stack([frame["age"].to_numpy() / 20, *levels], axis=1) + noise


def audit_data(latents, frame=None, **options):
    frame = people() if frame is None else frame
    found = audit_disentanglement(latents, frame, ["age"], WHO[: len(frame)], 0, **{"permutations": 19, **options})
    return dict(zip(("modularity", "compactness", "explicitness"), found, strict=True))


@pytest.fixture(autouse=True)
def few_halves(request, monkeypatch):
    """Let intervals come from 8 halves instead of 40 where no test looks at them."""
    if request.function is not test_a_perfect_code:
        monkeypatch.setattr(disentanglement, "_HALVES", 8)


def test_a_perfect_code():
    found = audit_data(perfect(people()))
    for finding in found.values():
        assert finding.estimate > 0.85
        assert finding.ci_low > 0.6
        assert finding.p <= 0.15  # ratios of noise are sometimes near 1
    assert found["explicitness"].p == 0.05
    assert found["modularity"].metric == "info_modularity"
    assert found["modularity"].group == "latents"


def test_noise_is_at_the_floor_although_its_score_is_not():
    codes = [np.random.default_rng([seed, 3]).normal(size=(N, 6)) for seed in range(5)]
    found = [audit_data(code, people(seed)) for seed, code in enumerate(codes)]
    for name in ("modularity", "compactness", "explicitness"):
        assert np.mean([own[name].estimate for own in found]) == pytest.approx(
            0, abs=0.35
        )  # InfoM of noise is .65 +- .12
        assert sum(own[name].p <= 0.05 for own in found) <= 2
    raw = [float(own["modularity"].note.split("score ")[1].split(",")[0]) for own in found]
    assert np.mean(raw) > 0.3


def test_a_rotated_code_is_explicit_and_not_modular():
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    code = perfect(people())
    rotated = (code - code.mean(axis=0)) / code.std(axis=0) @ rotation
    found, straight = audit_data(rotated), audit_data(code)
    assert found["explicitness"].estimate > 0.7
    assert found["modularity"].estimate < straight["modularity"].estimate - 0.3
    assert found["compactness"].estimate < straight["compactness"].estimate - 0.3


def test_a_folded_code_is_modular_and_not_explicit():
    code = perfect(people())
    code[:, 0] = np.abs(code[:, 0] - code[:, 0].mean())
    sources, _ = make_sources(people(), ["age"])
    assert explicitness(code, sources[0], WHO, 0) < 0.05
    assert information(code[:, 0], sources[0].codes) > 0.8


def test_a_code_that_says_everything_twice_is_modular_and_not_compact():
    code = perfect(people())
    twice = np.concatenate([code, code + 1e-3 * np.random.default_rng(0).normal(size=code.shape)], axis=1)
    found = audit_data(twice)
    assert found["modularity"].estimate > 0.85
    assert found["compactness"].estimate < 0.6


@pytest.mark.parametrize("seed", range(3))
def test_information_is_the_estimate_of_ross(seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice(4, N, p=[0.4, 0.3, 0.25, 0.05])
    z = rng.normal(size=N) + 0.7 * codes * (seed > 0)
    theirs = mutual_info_classif(z[:, None], codes, discrete_features=False, n_neighbors=10, random_state=0)[0]
    assert information(z, codes) == pytest.approx(theirs, abs=1e-3)


def test_scores_are_those_of_the_formulas():
    # Independent of the estimate: NMI worked out by hand from `information`.
    frame, rng = people(), np.random.default_rng(2)
    z = perfect(frame)[:, [0, 1]] @ np.array([[1.0, 0.3], [0.0, 1.0]]) + 0.2 * rng.normal(size=(N, 2))
    sources, _ = make_sources(frame[["age", "sex"]], ["age"])
    nmi = np.zeros((2, 2))
    for i, source in enumerate(sources):
        shares = np.bincount(source.codes) / N
        for j in range(2):
            nmi[i, j] = information(z[:, j], source.codes) / -(shares * np.log(shares)).sum()
    modularity = (np.mean(nmi.max(axis=0) / nmi.sum(axis=0)) - 1 / 2) / (1 - 1 / 2)
    compactness = (np.mean(nmi.max(axis=1) / nmi.sum(axis=1)) - 1 / 2) / (1 - 1 / 2)
    explicit = np.mean([explicitness(z, source, WHO, 0) for source in sources])
    np.testing.assert_allclose(info_scores(z, sources, WHO, 0), [modularity, compactness, explicit])


def test_explicitness_of_a_number_is_r2_out_of_fold():
    rng = np.random.default_rng(0)
    y = rng.normal(size=N)
    z = np.stack([y + rng.normal(size=N), rng.normal(size=N)], axis=1)
    assert explicitness(z, Source("y", np.zeros(N, int), y), WHO, 0) == pytest.approx(0.5, abs=0.08)
    # Sessions of one person are no evidence about others.
    who = np.repeat(np.arange(15), 20).astype(str).astype(object)
    own = np.repeat(rng.normal(size=15), 20)
    marks = np.repeat(rng.normal(size=(15, 14)), 20, axis=0)
    assert explicitness(marks, Source("y", np.zeros(N, int), own), who, 0) < 0
    assert explicitness(marks, Source("y", np.zeros(N, int), own), WHO, 0) > 0.8


def test_explicitness_counts_classes_alike():
    rng = np.random.default_rng(0)
    rare = (np.arange(N) % 10 == 0).astype(int)
    assert explicitness(rng.normal(size=(N, 2)), Source("ill", rare, None), WHO, 0) == pytest.approx(0, abs=0.06)
    assert explicitness(rare[:, None] + 0.01 * rng.normal(size=(N, 1)), Source("ill", rare, None), WHO, 0) > 0.95


def test_narrow_latents_are_pruned():
    latents = np.random.default_rng(0).uniform(size=(N, 4)) * np.array([20.0, 1.3, 0.7, 0.0])
    np.testing.assert_array_equal(unpruned(latents), [True, True, False, False])
    assert (
        "3 of 5 latents" in audit_data(np.concatenate([perfect(people()), np.zeros((N, 2))], axis=1))["modularity"].note
    )


def test_quantised_latents_are_no_trouble():
    found = audit_data(np.round(perfect(people())))
    assert found["modularity"].estimate > 0.8


def test_what_needs_two_is_insufficient_with_one():
    one = audit_disentanglement(perfect(people()), people()[["sex"]], [], WHO, 0, permutations=19)
    assert [f.status for f in one] == ["insufficient", "ok", "ok"]
    narrow = audit_data(perfect(people())[:, :1])
    assert [f.status for f in narrow.values()] == ["ok", "insufficient", "ok"]


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_few_people_say_nothing(n):
    found = audit_data(perfect(people())[:n], people().iloc[:n])
    assert {f.status for f in found.values()} == {"insufficient"}
    assert {f.n for f in found.values()} == {n}


def test_sources_without_levels_enough_are_left_out_by_name():
    frame = people().assign(rare=["x"] * 290 + ["y"] * 10, one="z")
    sources, left_out = make_sources(frame, ["age"])
    assert [source.name for source in sources] == ["age", "sex", "site"]
    assert left_out == ["rare", "one"]
    assert "left out, too few levels: rare, one" in audit_data(perfect(people()), frame)["modularity"].note


def test_the_seed_decides():
    code = perfect(people()) + np.random.default_rng(0).normal(size=(N, 3))
    assert audit_data(code, permutations=5) == audit_data(code, permutations=5)


@pytest.mark.parametrize("few", [12, 13])
def test_a_level_of_few_that_some_halves_hardly_have(few):
    frame = people(n=50).assign(sex=["F"] * few + ["M"] * (50 - few))[["age", "sex"]]
    found = audit_data(np.random.default_rng(0).normal(size=(50, 3)), frame, permutations=3)
    assert all(row.status == "ok" and np.isfinite(row.ci_low) for row in found.values())


def test_nothing_is_learned_of_a_level_that_no_fold_can_train_on():
    z, who = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20).astype(str)
    one = explicitness(z, Source("sex", np.r_[1, np.zeros(19, int)], None), who, 0)
    assert np.isfinite(one)
    assert explicitness(z, Source("sex", np.zeros(20, int), None), who, 0) == 0


def test_few_exchanges_know_the_floor_badly():
    noise = np.random.default_rng(3).normal(size=(N, 3))
    few, many = (audit_data(noise, permutations=count)["compactness"] for count in (3, 48))
    assert few.ci_high - few.ci_low > many.ci_high - many.ci_low
