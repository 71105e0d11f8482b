import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medrep.audit.finding import findings_table
from medrep.audit.groups import Least, group_participants, parse_by, parse_intersect
from medrep.audit.intervals import area_interval, permuted, sample_weights, share_interval
from medrep.audit.metrics import person_mean, prediction_metrics
from medrep.audit.permutation import exchange_labels
from medrep.audit.subgroups import audit_subgroups
from medrep.errors import CohortError
from tests.shortened import at_most, seeds

CHEAP = {"draws": 300, "permutations": 199}


def people(n, rng, sites=(0.5, 0.3, 0.2)):
    site = rng.choice([f"S{k}" for k in range(len(sites))], n, p=sites)
    return pd.DataFrame({"sex": rng.choice(["F", "M"], n), "site": site, "age": rng.uniform(20, 80, n)})


def audit(statistic, frame, by="sex,site", crossed=(), metric="m", **more):
    groupings = group_participants(frame, parse_by(by), [parse_intersect(text) for text in crossed])
    return {(row.metric, row.group): row for row in audit_subgroups(metric, statistic, groupings, **(CHEAP | more))}


def mean(values, owners=None):
    return person_mean(values, np.arange(len(values)) if owners is None else owners, "mm")


# Rows


def test_each_row_is_the_mean_of_its_people():
    rng = np.random.default_rng(0)
    frame, values = people(300, rng), rng.gamma(4, size=300)
    found = audit(mean(values), frame, crossed=["sex,site"])
    assert found["m", "everybody"].estimate == pytest.approx(values.mean())
    for sex in "FM":
        inside = (frame["sex"] == sex).to_numpy()
        row = found["m", f"sex={sex}"]
        assert (row.n, row.estimate, row.note) == (inside.sum(), pytest.approx(values[inside].mean()), "mm")
        assert row.ci_low < row.estimate < row.ci_high
        assert ("m", f"sex={sex} & site=S1") in found
    means = [found["m", f"site=S{k}"].estimate for k in range(3)]
    assert found["m_gap", "site"].estimate == pytest.approx(max(means) - min(means))
    assert found["m_gap", "sex,site"].n == 300


def test_small_groups_are_listed_and_neither_pass_nor_enter_a_gap():
    rng = np.random.default_rng(1)
    frame = people(208, rng)
    frame.loc[:7, "site"] = ["T1", "T2", "T2", *["T5"] * 5]
    values = rng.normal(size=208)
    values[:8] = 1000.0
    found = audit(mean(values), frame)
    for name, n in (("T1", 1), ("T2", 2), ("T5", 5)):
        row = found["m", f"site={name}"]
        assert (row.status, row.n) == ("insufficient", n)
        assert np.isnan([row.estimate, row.ci_low, row.ci_high, row.p]).all()
        assert f"{n} of the 20" in row.note
    assert found["m_gap", "site"].estimate < 2
    assert "site=T1 (1), site=T2 (2), site=T5 (5)" in found["m_gap", "site"].note


def test_a_gap_needs_two_groups():
    rng = np.random.default_rng(2)
    found = audit(mean(rng.normal(size=50)), pd.DataFrame({"sex": ["F"] * 35 + ["M"] * 15}), "sex")
    for name in ("m_gap", "m_gap_excess"):
        assert found[name, "sex"].status == "insufficient"
        assert np.isnan(found[name, "sex"].estimate)
    assert found["m", "sex=F"].status == "ok"


def test_people_without_a_value_are_counted_and_named():
    rng = np.random.default_rng(3)
    frame, values = people(100, rng), rng.normal(size=100)
    values[:30] = np.nan
    frame.loc[:29, "sex"] = "F"
    row = audit(mean(values), frame)["m", "sex=F"]
    assert row.n == (frame["sex"] == "F").sum() - 30
    assert f"30 of {row.n + 30} rows have no value" in row.note


def test_people_without_a_group_have_a_row_and_no_part_in_the_gap():
    rng = np.random.default_rng(4)
    frame, values = people(150, rng), rng.normal(size=150)
    frame.loc[:39, "sex"] = None
    values[:40] += 50
    found = audit(mean(values), frame)
    assert found["m", "sex=(missing)"].n == 40
    assert found["m", "sex=(missing)"].p <= 0.01
    assert found["m_gap", "sex"].n == 110
    assert found["m_gap", "sex"].estimate < 2
    assert found["m_gap", "sex"].p > 0.01


def test_a_group_of_equal_values_has_no_invented_interval_and_a_share_of_none_has_one():
    frame = pd.DataFrame({"sex": ["F"] * 40 + ["M"] * 40})
    same = audit(mean(np.full(80, 2.5)), frame, "sex")
    assert same["m", "sex=F"].estimate == 2.5
    assert np.isnan(same["m", "sex=F"].ci_high)
    assert same["m_gap", "sex"].p == 1.0
    assert np.isnan(same["m_gap", "sex"].ci_high)
    wrong = np.r_[np.zeros(40), np.ones(8), np.zeros(32)]
    shares = audit(mean(wrong), frame, "sex")
    row = shares["m", "sex=F"]
    assert (row.estimate, row.ci_low) == (0.0, 0.0)
    assert row.ci_high == pytest.approx(stats.binomtest(0, 40).proportion_ci().high)
    assert shares["m_gap", "sex"].ci_high > 0.2 + 0.05


def test_the_same_seed_gives_the_same_rows_whatever_else_is_asked():
    rng = np.random.default_rng(5)
    frame, values = people(120, rng), rng.normal(size=120)
    enough = {"permutations": 400}  # more groups ask for more of them, up to 40 a group
    alone, both = (audit(mean(values), frame, by, **enough) for by in ("site", "sex,site"))
    assert {key: str(row) for key, row in alone.items()}.items() <= {key: str(row) for key, row in both.items()}.items()


def test_rows_of_a_participant_are_one_person():
    rng = np.random.default_rng(6)
    frame, values = people(60, rng), rng.normal(size=60)
    once = audit(mean(values), frame, by="sex")
    repeated = pd.concat([frame] * 5, ignore_index=True)
    found = audit(mean(np.tile(values, 5), np.tile(np.arange(60), 5)), repeated, by="sex")
    for key, row in once.items():
        assert found[key].n == row.n
        assert found[key].estimate == pytest.approx(row.estimate, abs=0.03)
        assert found[key].ci_high - found[key].ci_low == pytest.approx(row.ci_high - row.ci_low, rel=0.25)
    assert "rows" in found["m", "sex=F"].note
    few = audit(mean(np.tile(values, 5)[:75], np.tile(np.arange(15), 5)), repeated[:75], by="sex")
    assert few["m", "everybody"].status == "insufficient"


# Known truth


def rates(make, count, **more):
    """Share of seeds in which the gap of site is found, its interval's ends pass the truth, the excess; and trends."""
    rows = []
    for seed in seeds(count):
        frame, statistic, gap = make(np.random.default_rng(1000 + seed))
        found = audit(statistic, frame, by="site,age:40/60", seed=seed, **more)
        own, excess, trend = found["m_gap", "site"], found["m_gap_excess", "site"], found.get(("m_trend", "age"))
        group = found["m", "site=S2"]
        rows.append(
            {
                "p": own.p <= 0.05,
                "above": own.ci_low > gap,
                "below": own.ci_high < gap,
                "excess": excess.estimate,
                "below_excess": excess.ci_high < gap,
                "group_p": group.p <= 0.05,
                "trend_p": trend is not None and trend.p <= 0.05,
                "trend_low": trend is not None and trend.ci_low > 0,
            }
        )
    return pd.DataFrame(rows)


def planted(kind, gap):
    def make(rng):
        frame = people(240, rng)
        last = (frame["site"] == "S2").to_numpy()
        if kind == "skewed":
            values = np.exp(0.6 * rng.normal(size=240)) + gap * last
        elif kind == "spread":
            values = rng.normal(size=240) * np.where(last, 3, 1) + gap * last
        else:
            values = (rng.random(240) < 0.1 + gap * last).astype(float)
        return frame, mean(values), gap

    return make


@pytest.mark.shortened
@pytest.mark.parametrize("kind", ["skewed", "spread", "share"])
def test_no_disparity_gives_no_more_alarms_than_chance(kind):
    found = rates(planted(kind, 0.0), 150)
    most = at_most(len(found), 0.05, 0.995)
    for name in ("p", "above", "group_p", "trend_p", "trend_low"):
        assert found[name].sum() <= most, name
    excess = found["excess"]
    assert abs(excess.mean()) < 3.5 * excess.std() / np.sqrt(len(found))


@pytest.mark.shortened
@pytest.mark.parametrize(("kind", "gap"), [("skewed", 0.8), ("share", 0.3)])
def test_a_planted_disparity_is_found_and_its_interval_holds_it(kind, gap):
    found = rates(planted(kind, gap), 100)
    assert found["p"].mean() >= 0.9
    assert found["group_p"].mean() >= 0.9
    for name in ("above", "below", "below_excess"):  # 2.5% each
        assert found[name].sum() <= at_most(len(found), 0.025, 0.995), name


@pytest.mark.shortened
def test_upper_ends_hold_the_gap_of_equal_and_of_different_groups():
    for gap in (0.0, 1.0):
        missed = rates(planted("spread", gap), 100, permutations=19)["below"]
        assert missed.sum() <= at_most(len(missed), 0.025, 0.995)


def test_the_correction_over_groups_belongs_to_groups_of_one_metric():
    rng = np.random.default_rng(7)
    frame = people(400, rng)
    values = rng.normal(size=400) + 1.5 * ((frame["sex"] == "F") & (frame["site"] == "S2"))
    groupings = group_participants(frame, parse_by("sex,site"), [parse_intersect("sex,site")])
    table = findings_table(audit_subgroups("m", mean(values.to_numpy()), groupings, **CHEAP))
    rows = table[table["metric"] == "m"].set_index("group")
    assert rows.loc["sex=F & site=S2", "q"] <= 0.02
    assert rows.loc["sex=M & site=S0", "q"] > 0.001
    assert rows["p"].notna().sum() == 2 + 3 + 6
    assert table[table["metric"] == "m_gap"]["q"].notna().all()


# Along age


def test_the_smooth_follows_a_planted_curve_and_its_range():
    rng = np.random.default_rng(8)
    frame = people(500, rng)
    age = frame["age"].to_numpy()
    values = 0.002 * (age - 50) ** 2 + 0.3 * rng.normal(size=500)
    found = audit(mean(values), frame, by="age:40/60")
    trend = found["m_trend", "age"]
    low, high = np.quantile(age, [0.05, 0.95])
    truth = 0.002 * max(50 - low, high - 50) ** 2
    assert trend.p <= 0.01
    assert trend.ci_low < truth < trend.ci_high
    assert trend.estimate == pytest.approx(truth, rel=0.15)
    for at in (30, 50, 70):
        row = found["m_smooth", f"age={at}"]
        assert row.ci_low - 0.03 < 0.002 * (at - 50) ** 2 < row.ci_high + 0.03
        assert row.ci_high - row.ci_low < 0.25
    assert found["m", "age=40-60"].estimate < found["m", "age>=60"].estimate


@pytest.mark.shortened
def test_ages_over_sessions_are_exchanged_as_series():
    rng = np.random.default_rng(9)
    alarms = 0
    for seed in seeds(80):
        own = np.repeat(rng.normal(size=40), 3)
        frame = pd.DataFrame({"age": np.repeat(rng.uniform(20, 80, 40), 3) + np.tile([0, 2, 4], 40)})
        values = own + 0.1 * rng.normal(size=120)
        found = audit(mean(values, np.repeat(np.arange(40), 3)), frame, by="age:50", seed=seed, permutations=99)
        alarms += found["m_trend", "age"].p <= 0.05
    assert alarms <= at_most(len(seeds(80)), 0.05, 0.995)


def test_too_few_people_have_no_smooth():
    rng = np.random.default_rng(10)
    found = audit(mean(rng.normal(size=39)), people(39, rng), by="age:50")
    assert found["m_trend", "age"].status == "insufficient"
    assert not any(metric == "m_smooth" for metric, _ in found)


# Predictions


def predictions(n, rng, worse=None):
    frame = people(n, rng)
    case = rng.random(n) < 0.5
    score = rng.normal(size=n) + 2.0 * case
    if worse is not None:
        score = np.where((frame["site"] == worse).to_numpy(), rng.normal(size=n) + 0.3 * case, score)
    outcome = pd.Series(np.where(case, "AD", "HC"), name="dx")
    return frame, outcome, pd.Series(1 / (1 + np.exp(1 - score)), name="risk")


def test_metrics_of_a_prediction_are_what_they_say():
    rng = np.random.default_rng(11)
    frame, outcome, risk = predictions(200, rng)
    risk = risk.round(1)
    found = prediction_metrics(outcome, risk, np.arange(200), "AD")
    case = (outcome == "AD").to_numpy()
    inside = (frame["sex"] == "F").to_numpy()
    rows = {name: audit(statistic, frame, metric=name)[name, "sex=F"] for name, statistic in found.items()}
    assert rows["auroc"].estimate == pytest.approx(roc_auc_score(case[inside], risk[inside]))
    assert rows["error"].estimate == pytest.approx(((risk >= 0.5) != case)[inside].mean())
    assert rows["calibration"].estimate == pytest.approx((risk - case)[inside].mean())
    for row in rows.values():
        assert row.ci_low < row.estimate < row.ci_high


def test_predicted_numbers_and_labels():
    frame = pd.DataFrame({"sex": ["F", "M"] * 30})
    years = pd.Series(np.arange(60.0), name="age")
    found = prediction_metrics(years, years + np.tile([1.0, -3.0], 30), np.arange(60))
    assert set(found) == {"error", "calibration"}
    error = audit(found["error"], frame, by="sex")
    assert (error["m", "sex=F"].estimate, error["m", "sex=M"].estimate) == (1.0, 3.0)
    assert audit(found["calibration"], frame, by="sex")["m", "sex=M"].estimate == -3.0
    labels = pd.Series(["a", "b", "c"] * 20, name="kind")
    wrong = prediction_metrics(labels, labels.replace("c", "a"), np.arange(60))
    assert audit(wrong["error"], frame, by="sex")["m", "everybody"].estimate == pytest.approx(1 / 3)


def test_a_class_with_too_few_people_is_named():
    rng = np.random.default_rng(12)
    frame, outcome, risk = predictions(120, rng)
    frame["sex"] = "M"
    frame.loc[outcome.index[outcome == "HC"][:30], "sex"] = "F"
    frame.loc[outcome.index[outcome == "AD"][:9], "sex"] = "F"
    for statistic in prediction_metrics(outcome, risk, np.arange(120), "AD").values():
        row = audit(statistic, frame, by="sex")["m", "sex=F"]
        assert (row.status, row.n) == ("insufficient", 39)
        assert "9 of the 10 participants needed with outcome 1" in row.note
        enough = audit(statistic, frame, by="sex", least=Least(of_a_class=9))["m", "sex=F"]
        assert enough.status == "ok"


def test_perfect_separation_has_an_interval_of_some_width():
    frame = pd.DataFrame({"sex": ["F", "M"] * 30})
    outcome = pd.Series([0] * 30 + [1] * 30, name="dx")
    auroc = prediction_metrics(outcome, pd.Series(np.arange(60.0), name="score"), np.arange(60))
    assert set(auroc) == {"auroc"}
    row = audit(auroc["auroc"], frame, by="sex")["m", "sex=F"]
    assert (row.estimate, row.ci_high) == (1.0, 1.0)
    assert 0.6 < row.ci_low < 0.95


@pytest.mark.shortened
def test_prevalence_is_no_disparity_of_auroc_and_a_worse_site_is():
    alarms, found = 0, 0
    for seed in seeds(60):
        rng = np.random.default_rng(seed)
        frame, outcome, risk = predictions(300, rng, worse="S2")
        auroc = prediction_metrics(outcome, risk, np.arange(300), "AD")["auroc"]
        found += audit(auroc, frame, by="site", draws=50, permutations=99)["m_gap", "site"].p <= 0.05
        frame, outcome, risk = predictions(300, rng)
        drop = ((frame["site"] == "S1") & (outcome == "AD")).to_numpy() & (rng.random(300) < 0.6)
        keep = np.flatnonzero(~drop)
        frame, outcome, risk = (part.iloc[keep].reset_index(drop=True) for part in (frame, outcome, risk))
        auroc = prediction_metrics(outcome, risk, np.arange(len(keep)), "AD")["auroc"]
        alarms += audit(auroc, frame, by="site", draws=50, permutations=99)["m_gap", "site"].p <= 0.05
    assert found >= 0.9 * len(seeds(60))
    assert alarms <= at_most(len(seeds(60)), 0.05, 0.995)


@pytest.mark.parametrize(
    ("outcome", "predicted", "positive", "told"),
    [
        (["AD", "HC"], [0.1, 0.2], None, "say with --positive"),
        (["AD", "HC"], [0.1, 0.2], "MCI", "'MCI' is neither"),
        (["AD", "HC"], ["AD", "control"], "AD", "control"),
        (["AD", "AD"], [0.1, 0.2], "AD", "two values"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(outcome, predicted, positive, told):
    with pytest.raises(CohortError, match=told):
        prediction_metrics(pd.Series(outcome, name="dx"), pd.Series(predicted, name="p"), np.arange(2), positive)


# Draws and intervals


def test_labels_are_exchanged_between_participants_and_within_strata():
    owners = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    labels = np.array([7, 7, 8, 9, 9, 9, 7, 8])
    strata = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    (draws,) = permuted(owners, labels, strata, 200, np.random.default_rng(0))
    given = labels[draws]
    for row in given:
        assert all(len(set(row[owners == own])) == 1 for own in range(5))
        assert sorted(row[[0, 2, 3]]) == [7, 8, 9]
        assert sorted(row[6:]) == [7, 8]
    assert len({tuple(row) for row in given}) == 12


def test_series_are_exchanged_whole_where_labels_vary():
    owners = np.array([0, 0, 1, 1, 2])
    labels = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    (draws,) = permuted(owners, labels, np.zeros(5, dtype=int), 50, np.random.default_rng(0))
    assert {tuple(row) for row in labels[draws]} == {(1.0, 2.0, 3.0, 4.0, 5.0), (3.0, 4.0, 1.0, 2.0, 5.0)}


def test_weights_count_how_often_a_participant_was_drawn():
    owners = np.array([5, 5, 8, 9])
    for weights in sample_weights(owners, 100, np.random.default_rng(0)):
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_intervals_of_shares_and_areas_cover():
    rng = np.random.default_rng(13)
    shares = [
        share_interval(hits / 25, np.sqrt(max(hits * (25 - hits), 1e-9) / 25**3), 25, 25)
        for hits in rng.binomial(25, 0.08, 300)
    ]
    assert np.mean([low <= 0.08 <= high for low, high in shares]) >= 0.93
    truth, hit = stats.norm.cdf(2 / np.sqrt(2)), 0
    for _ in range(300):
        cases, others = rng.normal(2, 1, 12), rng.normal(0, 1, 15)
        low, high = area_interval(float((cases[:, None] > others).mean()), 12, 15)
        hit += low <= truth <= high
    assert 0.92 <= hit / 300 <= 0.995


def test_one_group_has_nobody_to_compare_with():
    statistic = mean(np.arange(30.0))
    codes = np.zeros(30, dtype=np.int64)
    found = exchange_labels(statistic, codes, np.arange(30), [0], 19, np.random.default_rng(0))
    assert np.isnan(found.against_rest[0])
    assert np.isnan(found.largest)
