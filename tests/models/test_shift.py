import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep.errors import EvidenceError, ModelError
from medrep.models.shift import ShiftGate, saved_gate
from tests.shortened import seeds

WIDTH = 12


class Planted:
    """Scanners with locations, scales and correlated statistics of their own."""

    def __init__(self, seed: int, scanners: int, heavy: bool = False) -> None:
        self.rng = np.random.default_rng([seed, scanners, heavy])
        self.location = 2 * self.rng.normal(size=(scanners, WIDTH))
        self.scale = np.exp(0.2 * self.rng.normal(size=(scanners, WIDTH)))
        self.mix = self.rng.normal(size=(WIDTH, WIDTH)) / np.arange(1, WIDTH + 1)[:, None] + 0.2 * np.eye(WIDTH)
        self.heavy = heavy

    def draw(self, *counts: int) -> tuple[pd.DataFrame, pd.Series]:
        codes = np.repeat(np.arange(len(counts)), counts)
        shape = (len(codes), WIDTH)
        own = self.rng.standard_t(4, shape) if self.heavy else self.rng.normal(size=shape)
        values = self.location[codes] + self.scale[codes] * (own @ self.mix)
        keys = [f"sub-{k}" for k in range(len(codes))]
        return pd.DataFrame(values, keys, [f"s{k}" for k in range(WIDTH)]), pd.Series([f"S{c}" for c in codes], keys)


@pytest.mark.shortened
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("sizes", [(40,), (25, 25, 25), (60, 30, 8, 4), (120, 19, 18)])
def test_p_is_uniform_or_somewhat_large_for_people_of_known_scanners(sizes, heavy):
    found, scanner = [], []
    for seed in seeds(40):
        planted = Planted(seed, len(sizes), heavy)
        gate = ShiftGate.fit(*planted.draw(*sizes))
        people = planted.draw(*(30,) * len(sizes))
        found.append(gate.p_value(*people))
        scanner.append(people[1].to_numpy())
    p, labels = np.stack(found), np.concatenate(scanner)
    for rate in (0.05, 0.1, 0.2):
        # People of one calibration share its luck: the calibrations are the units.
        each = (p <= rate).mean(axis=1)
        error = 3 * each.std(ddof=1) / np.sqrt(len(each))
        assert 0.5 * rate - error <= each.mean() <= rate + error
        for label in np.unique(labels):
            each = (p[:, labels[: p.shape[1]] == label] <= rate).mean(axis=1)
            assert each.mean() <= rate + 3.5 * each.std(ddof=1) / np.sqrt(len(each)) + 0.005, (label, rate)


@pytest.mark.shortened
def test_an_unknown_label_of_a_known_kind_is_not_alarmed_about():
    alarms = []
    for seed in seeds(30):
        planted = Planted(seed, 3)
        gate = ShiftGate.fit(*planted.draw(40, 40, 40))
        statistics, _ = planted.draw(20, 20, 20)
        alarms.append((gate.p_value(statistics, pd.Series(None, statistics.index, dtype=object)) <= 0.05).mean())
    assert 0.02 <= np.mean(alarms) <= 0.05 + 3 * np.std(alarms) / np.sqrt(len(alarms))


def test_a_held_out_scanner_is_seen():
    planted = Planted(0, 4)
    gate = ShiftGate.fit(*planted.draw(40, 40, 40))
    statistics, scanners = planted.draw(0, 0, 0, 50)
    assert (gate.p_value(statistics, scanners) <= 0.05).mean() > 0.9
    # Also where it goes by the name of a scanner that is known.
    assert (gate.p_value(statistics, scanners.map(lambda _: "S0")) <= 0.05).mean() > 0.9


def test_a_planted_shift_is_found_and_named():
    planted = Planted(1, 2)
    gate = ShiftGate.fit(*planted.draw(60, 60))
    statistics, scanners = planted.draw(30, 30)
    statistics["s3"] += 8 * statistics.groupby(scanners)["s3"].transform("std")
    assert (gate.p_value(statistics, scanners) <= 0.05).mean() > 0.95
    reasons = gate.reason(statistics, scanners)
    assert np.mean([reason.startswith("s3 +") for reason in reasons]) > 0.8
    assert all(" sd" in reason for reason in reasons)


def test_what_is_odd_given_the_others_is_said_so():
    rng = np.random.default_rng(0)
    common = rng.normal(size=200)
    table = pd.DataFrame({"a": common, "b": common + 0.05 * rng.normal(size=200), "c": rng.normal(size=200)})
    one = pd.Series("S0", table.index)
    gate = ShiftGate.fit(table, one)
    odd = pd.DataFrame({"a": [1.0], "b": [0.0], "c": [0.0]})
    assert gate.p_value(odd, one[:1])[0] <= 0.05
    assert gate.reason(odd, one[:1])[0].endswith("given the others")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), factor=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
def test_units_and_orders_do_not_matter(seed, factor, offset):
    planted = Planted(seed, 2)
    (fitted, labels), (new, new_labels) = planted.draw(30, 10), planted.draw(8, 8)
    p = ShiftGate.fit(fitted, labels).p_value(new, new_labels)
    transformed = ShiftGate.fit(fitted * factor + offset, labels).p_value(new * factor + offset, new_labels)
    assert np.mean(np.abs(p - transformed) > 1e-9) <= 0.1  # ties of rounding
    gate = ShiftGate.fit(fitted, labels)
    order = planted.rng.permutation(len(new))
    np.testing.assert_array_equal(gate.p_value(new.iloc[order, ::-1], new_labels), p[order])
    assert gate.reason(new.iloc[order], new_labels) == [gate.reason(new, new_labels)[k] for k in order]
    assert ((p > 0) & (p <= 1)).all()


def test_errors_are_compared_by_their_logarithms_and_to_one_side():
    planted = Planted(2, 1)
    statistics, scanners = planted.draw(50)
    new, labels = planted.draw(20)
    columns = {"s0": "reconstruction_error", "s1": "deviation"}

    def powers(table: pd.DataFrame, factor: float = 1.0) -> pd.DataFrame:
        errors = {name: factor * np.exp(table[name]) for name in columns}
        return table.assign(**errors).rename(columns=columns)

    gate = ShiftGate.fit(powers(statistics), scanners)
    p = gate.p_value(powers(new), labels)
    again = ShiftGate.fit(powers(statistics, 40.0), scanners).p_value(powers(new, 40.0), labels)
    assert np.mean(np.abs(p - again) > 1e-9) <= 0.1  # ties of rounding
    # Whoever is drawn better is no more unusual, and never for that reason.
    well = powers(new).assign(reconstruction_error=1e-9, deviation=0.0)
    assert (gate.p_value(well, labels) >= p).all()
    assert not [
        said for said in gate.reason(well, labels) if said.startswith(("reconstruction_error -", "deviation -"))
    ]
    badly = powers(new).assign(reconstruction_error=1e9)
    assert (gate.p_value(badly, labels) <= p).all()


def test_status_follows_the_rate():
    gate = ShiftGate.fit(*Planted(0, 1).draw(99))
    assert [gate.status(p, 0.05) for p in (0.01, 0.05, 0.051, 0.1, 0.11, 1.0)] == [
        "reject",
        "reject",
        "warn",
        "warn",
        "accept",
        "accept",
    ]


@pytest.mark.parametrize("sizes", [(20,), (30, 5), (19, 1)])
def test_a_person_beyond_everybody_is_never_accepted_in_silence(sizes):
    planted = Planted(0, len(sizes))
    gate = ShiftGate.fit(*planted.draw(*sizes))
    statistics, scanners = planted.draw(*(2,) * len(sizes))
    statistics = statistics + 1000
    for rate in (0.2, 0.05, 0.02, 0.001):
        for labels in (scanners, scanners.map(lambda _: "new")):
            found = {gate.status(p, rate) for p in gate.p_value(statistics, labels, rate)}
            assert found <= {"warn", "reject"}
    assert {gate.status(p, 0.001) for p in gate.p_value(statistics, scanners, 0.001)} == {"warn"}


def test_a_statistic_that_is_not_finite_is_as_unusual_as_can_be():
    planted = Planted(0, 2)
    gate = ShiftGate.fit(*planted.draw(40, 40))
    statistics, scanners = planted.draw(1, 1)
    statistics.iloc[0, 4] = np.nan
    p = gate.p_value(statistics, scanners)
    assert p[0] == 1 / 41
    assert gate.reason(statistics, scanners)[0] == "s4 is not finite"


def test_a_statistic_that_never_varies_may_not_start_to():
    planted = Planted(0, 1)
    statistics, scanners = planted.draw(40)
    gate = ShiftGate.fit(statistics.assign(s5=3.0), scanners)
    new, labels = planted.draw(10)
    usual = gate.p_value(new.assign(s5=3.0), labels)
    assert (usual > 0.05).any()
    assert (gate.p_value(new.assign(s5=3.1), labels) <= 0.05).all()
    same = pd.DataFrame({"a": np.ones(30)})
    one = pd.Series("S0", same.index)
    assert (ShiftGate.fit(same, one).p_value(same, one) == 1).all()


def test_it_survives_json_and_names_nobody():
    planted = Planted(3, 3)
    gate = ShiftGate.fit(*planted.draw(40, 10, 1))
    text = json.dumps(to_json(gate), allow_nan=False)
    assert "sub-" not in text
    again = saved_gate(json.loads(text))
    statistics, scanners = planted.draw(5, 5, 5)
    np.testing.assert_array_equal(again.p_value(statistics, scanners), gate.p_value(statistics, scanners))
    assert again.reason(statistics, scanners) == gate.reason(statistics, scanners)
    assert to_json(again) == to_json(gate)


@pytest.mark.parametrize("spoil", ["own", "nearest", "few", "reference"])
def test_a_gate_that_is_none_is_refused(spoil):
    content = to_json(ShiftGate.fit(*Planted(3, 2).draw(30, 10)))
    with pytest.raises(ModelError, match="calibrate again"):
        saved_gate({name: value for name, value in content.items() if name != spoil})
    with pytest.raises(ModelError, match="calibrate again"):
        saved_gate({**content, spoil: [[0.0]]})


def test_few_people_and_other_names_are_refused():
    planted = Planted(0, 1)
    with pytest.raises(EvidenceError, match="20 calibration people or more, here: 19"):
        ShiftGate.fit(*planted.draw(19))
    statistics, scanners = planted.draw(20)
    gate = ShiftGate.fit(statistics, scanners)
    with pytest.raises(ModelError, match=r"(?s)s0 is absent.*noise was not calibrated"):
        gate.p_value(statistics.rename(columns={"s0": "noise"}), scanners)
    spoilt = statistics.copy()
    spoilt.iloc[1, 3] = np.inf
    with pytest.raises(ModelError, match=r"(?s)sub-2: no scanner.*sub-1: s3"):
        ShiftGate.fit(spoilt, scanners.drop("sub-2"))
