"""What gates let pass, what they refuse, what they cannot say; and files of gates that are not valid."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep._persisted import to_json
from medrep.audit.finding import Finding, findings_table
from medrep.config import SHIPPED
from medrep.errors import ConfigError
from medrep.tracking.gates import Bound, Decision, Gate, Gates, read_gates
from tests.tracking.registering import CLEAN

UNDER = (Bound("ci_high", high=0.1),)
NOT_OVER = (Bound("ci_low", high=0.1),)


def judged(gate: Gate, *findings: Finding) -> Decision:
    return Gates((gate,), "").judge(findings_table(findings))


def excess(group: str, low: float, high: float, n: int = 100, **more: object) -> Finding:
    return Finding("leakage_excess", group, n, (low + high) / 2, float(low), float(high), **more)


TOO_FEW = Finding("leakage_excess", "exported/site", 7, status="insufficient", note="under 20 people")


@pytest.mark.parametrize(
    ("low", "high", "proof", "suspicion"),
    [(-0.02, 0.05, "passed", "passed"), (0.02, 0.18, "insufficient", "passed"), (0.12, 0.2, "refused", "refused")],
)
def test_the_end_that_is_bounded_says_who_has_to_prove_what(
    low: float, high: float, proof: str, suspicion: str
) -> None:
    row = excess("exported/site", low, high)
    assert judged(Gate("g", "leakage_excess", UNDER), row).verdict == proof
    assert judged(Gate("g", "leakage_excess", NOT_OVER), row).verdict == suspicion


def test_a_reason_names_finding_figure_bound_and_n() -> None:
    decision = judged(Gate("site", "leakage_excess", UNDER), excess("exported/site", 0.12, 0.2))
    assert decision.reasons == ("site: leakage_excess exported/site: ci_high 0.2, allowed: at most 0.1 (n = 100)",)


def test_bounds_are_inclusive_and_every_matching_finding_counts() -> None:
    gate = Gate("g", "leakage_excess", UNDER, group="exported/*")
    good, bad = excess("exported/site", 0, 0.1), excess("exported/age", 0.2, 0.3)
    assert judged(gate, good).verdict == "passed"
    assert judged(gate, good, bad).verdict == "refused"
    assert judged(gate, good, excess("raw/site", 0.4, 0.5)).verdict == "passed"
    both = Gate("g", "leakage_excess", (Bound("estimate", -0.1, 0.1),))
    assert judged(both, Finding("leakage_excess", "a", 9, -0.2)).verdict == "refused", "nothing says how sure it is"


@pytest.mark.parametrize(
    ("bound", "row", "verdict"),
    [
        (Bound("estimate", high=0.1), (0.12, 0.05, 0.2), "insufficient"),
        (Bound("estimate", high=0.1), (0.15, 0.11, 0.2), "refused"),
        (Bound("estimate", high=0.1), (0.08, -0.05, 0.2), "passed"),
        (Bound("ci_low", low=0.7), (0.8, 0.6, 0.9), "insufficient"),
        (Bound("ci_low", low=0.7), (0.5, 0.4, 0.6), "refused"),
        (Bound("ci_high", low=0.7), (0.5, 0.4, 0.6), "refused"),
        (Bound("ci_high", low=0.7), (0.65, 0.6, 0.71), "passed"),
    ],
)
def test_what_is_not_shown_either_way_is_too_little_evidence(
    bound: Bound, row: tuple[float, float, float], verdict: str
) -> None:
    decision = judged(Gate("g", "m", (bound,)), Finding("m", "a", 100, *row))
    assert decision.verdict == verdict
    assert ("would be enough" in "".join(decision.reasons)) == (verdict == "insufficient")


@given(st.floats(0.01, 1.0), st.integers(30, 500))
def test_as_many_people_as_said_are_enough_in_four_of_five_audits(error: float, n: int) -> None:
    row = excess("exported/site", -1.96 * error, 1.96 * error, n)
    (reason,) = judged(Gate("g", "leakage_excess", UNDER), row).reasons or ("",)
    if not reason:
        return
    people = int(reason.rpartition("about ")[2].split()[0])
    assert people > n
    # With that many the upper end is under the bound at an estimate .84 errors above 0.
    assert (1.96 + 0.84) * error * (n / people) ** 0.5 <= 0.1 + 1e-9


def test_an_outcome_that_was_not_given_is_said() -> None:
    decision = read_gates(SHIPPED / "gates.yaml").judge(findings_table(CLEAN))
    assert decision.warnings == (
        "what the data are for is still there: utility_change exported/*: no finding; the audit was not asked for it",
    )


@pytest.mark.parametrize(
    ("insufficient", "missing", "alone", "beside"),
    [
        ("refuse", "refuse", "insufficient", "insufficient"),
        ("refuse", "ignore", "insufficient", "insufficient"),
        ("warn", "refuse", "insufficient", "passed"),
        ("ignore", "refuse", "insufficient", "passed"),
        ("warn", "ignore", "insufficient", "passed"),
        ("ignore", "ignore", "insufficient", "passed"),
    ],
)
def test_too_few_people_are_never_a_pass(insufficient: str, missing: str, alone: str, beside: str) -> None:
    """Alone, even left out in silence, an insufficient finding leaves the decision without evidence."""
    gate = Gate("g", "leakage_excess", UNDER, insufficient=insufficient, missing=missing)  # type: ignore[arg-type]
    assert judged(gate, TOO_FEW).verdict == alone
    decision = judged(gate, TOO_FEW, excess("exported/age", 0, 0.05))
    assert decision.verdict == beside
    assert bool(decision.warnings) == (insufficient == "warn")
    assert judged(gate, TOO_FEW, excess("exported/age", 0.2, 0.3)).verdict == "refused"


def test_fewer_than_min_n_and_a_figure_that_is_absent_are_insufficient() -> None:
    gate = Gate("g", "leakage_excess", UNDER, min_n=50)
    for row in (excess("exported/site", 0, 0.05, n=49), Finding("leakage_excess", "exported/site", 100, 0.0)):
        decision = judged(gate, row)
        assert decision.verdict == "insufficient"
    assert "has no ci_high" in decision.reasons[0]
    assert judged(gate, excess("exported/site", 0, 0.05, n=50)).verdict == "passed"
    assert judged(gate, excess("exported/site", 0.2, 0.3, n=49)).verdict == "insufficient"


def test_no_finding_is_missing() -> None:
    other = Finding("injection", "exported/age", 100, 0.0, p=0.5)
    assert judged(Gate("g", "leakage_excess", UNDER), other).verdict == "insufficient"
    ignoring = Gate("g", "leakage_excess", UNDER, missing="ignore")
    assert judged(ignoring, other).verdict == "insufficient", "nothing at all was looked at"
    both = Gates((ignoring, Gate("h", "injection", (Bound("p", low=0.05),))), "")
    decision = both.judge(findings_table([other]))
    assert decision.verdict == "passed"
    assert [one.verdict for one in decision.judged] == ["absent", "passed"]


def test_refusals_come_before_lack_of_evidence() -> None:
    gates = Gates((Gate("few", "absent", UNDER), Gate("leaks", "leakage_excess", UNDER)), "")
    decision = gates.judge(findings_table([excess("exported/site", 0.2, 0.3)]))
    assert decision.verdict == "refused"
    assert [reason.split(":")[0] for reason in decision.reasons] == ["leaks", "few"]


def test_only_the_star_is_special_in_groups() -> None:
    rows = [excess("exported/age=[20, 40)", 0.2, 0.3), excess("exported/site", 0.0, 0.05)]
    assert judged(Gate("g", "leakage_excess", UNDER, group="exported/age=[20, 40)"), *rows).verdict == "refused"
    assert judged(Gate("g", "leakage_excess", UNDER, group="exported/*", not_group="*=*"), *rows).verdict == "passed"
    assert judged(Gate("g", "leakage_excess", UNDER, group="exported/sit."), *rows).verdict == "insufficient"


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 60), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["refuse", "warn", "ignore"]),
)
def test_a_pass_always_rests_on_evidence(rows: Sequence[tuple[float, float, int, bool]], insufficient: str) -> None:
    gate = Gate("g", "leakage_excess", UNDER, min_n=20, insufficient=insufficient)  # type: ignore[arg-type]
    findings = [
        excess(f"exported/{k}", low, low + width, n, status="ok" if known else "insufficient")
        for k, (low, width, n, known) in enumerate(rows)
    ]
    usable = [f for f in findings if f.status == "ok" and f.n >= 20]
    decision = judged(gate, *findings)
    if any(f.ci_low > 0.1 for f in usable):
        assert decision.verdict == "refused"
    elif (
        any(f.ci_high > 0.1 for f in usable) or not usable or (insufficient == "refuse" and len(usable) < len(findings))
    ):
        assert decision.verdict == "insufficient"
    else:
        assert decision.verdict == "passed"


def test_shipped_gates_pass_a_clean_audit_and_refuse_each_planted_fault() -> None:
    default = read_gates(SHIPPED / "gates.yaml")
    assert default.judge(findings_table(CLEAN)).verdict == "passed"
    faults = {
        "leakage_excess": Finding("leakage_excess", "exported/site", 120, 0.3, 0.2, 0.4, 0.001),
        "leakage_shape": Finding("leakage_shape", "exported/site", 120, 6.5, p=0.002),
        "dependence_given_kept": Finding("dependence_given_kept", "exported/site", 120, 0.02, p=0.002),
        "variance_kept": Finding("variance_kept", "exported", 120, 0.22, 0.2, 0.25),
        "identity_kept": Finding("identity_kept", "exported", 120, 0.4, 0.35, 0.5),
        "injection": Finding("injection", "exported/age", 120, 0.5, 0.4, 0.6, 0.001),
        "injection_gain": Finding("injection_gain", "exported/sex", 120, 0.2, 0.1, 0.3),
        "reconstruction_error_gap_excess": Finding("reconstruction_error_gap_excess", "sex", 120, 0.3, 0.2, 0.4),
        "cf_composition": Finding("cf_composition", "site", 120, 0.2, 0.1, 0.3),
        "cf_reversibility": Finding("cf_reversibility", "site=S1", 120, 0.2, 0.15, 0.25),
        "utility_change": Finding("utility_change", "exported/diagnosis", 120, -0.3, -0.4, -0.2),
    }
    lost = Finding("injection_gain", "exported/sex", 120, -0.2, -0.3, -0.1)
    assert default.judge(findings_table([*CLEAN, lost])).verdict == "refused", "a kept covariate was lost"
    for metric, fault in faults.items():
        decision = default.judge(findings_table([*CLEAN, fault]))
        assert decision.verdict == "refused", metric
        assert metric in decision.reasons[0]
        without = [row for row in CLEAN if row.metric != metric]
        wanted = {
            "leakage_shape",
            "leakage_equivalence",
            "leakage_excess",
            "variance_kept",
            "identity_kept",
            "reconstruction_error_gap_excess",
        }
        expected = "insufficient" if metric in wanted else "passed"
        assert default.judge(findings_table(without)).verdict == expected, metric


def test_strict_gates_want_proof() -> None:
    strict = read_gates(SHIPPED / "gates_strict.yaml")
    unclear = Finding("leakage_excess", "exported/site", 120, 0.1, -0.03, 0.23)
    decision = strict.judge(findings_table([*CLEAN, unclear]))
    assert decision.verdict == "insufficient"
    said = "leakage_excess exported/site: estimate 0.1, allowed: at most 0.075 (n = 120; about 130 would be enough"
    assert any(said in reason for reason in decision.reasons)
    assert any("latents" in reason for reason in decision.reasons)


def test_a_level_without_people_does_not_decide_for_its_covariate() -> None:
    level = Finding("leakage_excess", "exported/site=S9", 3, status="insufficient")
    default = read_gates(SHIPPED / "gates.yaml")
    assert default.judge(findings_table([*CLEAN, level])).verdict == "passed"
    only = [row for row in CLEAN if row.metric != "leakage_excess"]
    assert default.judge(findings_table([*only, level])).verdict == "insufficient"
    assert default.judge(findings_table([*only, TOO_FEW])).verdict == "insufficient"


@pytest.mark.parametrize("gates", ["gates.yaml", "gates_small.yaml", "gates_strict.yaml"])
def test_a_level_that_no_gate_looks_at_is_named_beside_a_pass(gates: str) -> None:
    level = Finding("leakage", "exported/site=C", 80, status="insufficient", note="kept covariates tell who they are")
    decision = read_gates(SHIPPED / gates).judge(findings_table([*CLEAN, level]))
    said = [warning for warning in decision.warnings if "site=C" in warning]
    assert said == [
        "not judged: exported/site=C: leakage of 80 people could not be measured (kept covariates tell who they are)"
    ]
    assert decision.verdict == read_gates(SHIPPED / gates).judge(findings_table(CLEAN)).verdict


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "holds no list of gates"),
        ("[]", "holds no list of gates"),
        ("- [", "not readable YAML"),
        ("- 3", "gate 1: 3 is not a set of keys and values"),
        ("- {name: a, metric: m, ci_hihg: {max: 1}}", "ci_hihg: unknown; did you mean ci_high?"),
        ("- {name: a, metric: m}", "bounds nothing; give one of estimate"),
        ("- {name: a, metric: m, p: {mn: 1}}", "p.mn: unknown; did you mean min?"),
        ("- {name: a, metric: m, p: 0.05}", "p 0.05 is no bound"),
        ("- {name: a, metric: m, p: {min: low}}", "p.min 'low' is no number"),
        ("- {name: a, metric: m, p: {min: .nan}}", "is no number"),
        ("- {name: a, metric: m, p: {min: true}}", "is no number"),
        ("- {name: a, metric: m, p: {min: 1, max: 0}}", "min above its max"),
        ("- {name: a, metric: m, p: {min: 0}, min_n: -1}", "min_n -1 is not a whole number"),
        ("- {name: a, metric: m, p: {min: 0}, significant: 5}", "significant 5 is not a number above 0 and at most 1"),
        ("- {name: a, metric: m, p: {min: 0}, insufficient: pass}", "insufficient 'pass' is not allowed"),
        ("- {name: a, metric: m, p: {min: 0}, missing: say}", "missing 'say' is not allowed"),
        ("- {metric: m, p: {min: 0}}", "name is absent"),
        ("- {name: a, metric: 3, p: {min: 0}}", "metric is absent or no text"),
        ("- {name: a, metric: m, p: {min: 0}, group: ''}", "group is absent or no text"),
        ("- {name: a, metric: m, p: {min: 0}}\n- {name: a, metric: k, p: {min: 0}}", "two gates have the name a"),
    ],
)
def test_gates_that_are_not_valid_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "gates.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_gates(tmp_path / "gates.yaml")
    assert said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("- {name: a, metric: m, p: 1}\n- {name: b, mtric: m, p: {min: 0}}\n")
    with pytest.raises(ConfigError) as caught:
        read_gates(tmp_path / "g.yaml")
    for said in ("gate 1 (a): p 1", "gate 2 (b): mtric", "did you mean metric", "gate 2 (b): metric is absent"):
        assert said in str(caught.value)


def test_a_decision_is_json_without_nan() -> None:
    content = to_json(judged(Gate("g", "leakage_excess", UNDER), TOO_FEW))
    assert content["verdict"] == "insufficient"
    assert content["gates"][0]["reasons"] == ["leakage_excess exported/site: insufficient (n = 7, under 20 people)"]
    json.dumps(content, allow_nan=False)


def test_what_is_left_to_another_metric_is_no_pass_and_refused_by_its_gates_only() -> None:
    gate = Gate("small", "leakage_excess", UNDER, left_to="leakage_beyond_training")
    other = Gate("beyond", "leakage_beyond_training", NOT_OVER)
    row = excess("exported/site", 0.2, 0.3)
    assert judged(gate, row).verdict == "refused", "the audit has no finding that could say what is a fault"

    def beyond(low: float, high: float, group: str = "exported/site") -> Finding:
        return Finding("leakage_beyond_training", group, 100, (low + high) / 2, low, high)

    left = judged(gate, row, beyond(-0.05, 0.05))
    assert left.verdict == "insufficient"
    assert "more audited people will not help; see leakage_beyond_training" in left.reasons[0]
    assert judged(gate, row, beyond(-0.05, 0.05, "exported/age")).verdict == "refused"
    both = Gates((gate, other), "")
    assert both.judge(findings_table([row, beyond(-0.05, 0.05)])).verdict == "insufficient"
    assert both.judge(findings_table([row, beyond(0.15, 0.25)])).verdict == "refused"
    assert both.judge(findings_table([excess("exported/site", -0.1, 0.05), beyond(-0.2, 0.0)])).verdict == "passed"


def test_what_no_test_finds_passes_a_gate_of_what_is_significant() -> None:
    gate = Gate("g", "z_mean", (Bound("ci_low", high=0.2),), significant=0.01)
    beyond = Finding("z_mean", "site=A", 60, 0.5, 0.3, 0.7, 0.2)
    assert judged(replace(gate, significant=1.0), beyond).verdict == "refused"
    assert judged(gate, beyond).verdict == "passed", "as much as few people of training leave"
    assert judged(gate, replace(beyond, p=0.001)).verdict == "refused"
    assert judged(gate, replace(beyond, ci_low=0.1, p=1e-9)).verdict == "passed", "shown, and not by as much as matters"
    assert judged(gate, replace(beyond, p=float("nan"))).reasons == ("g: z_mean site=A: has no q (n = 60)",)


def charted(
    group: str = "everybody", n: int = 400, p: float = 0.5, **others: tuple[float, float, float]
) -> list[Finding]:
    """Findings of a chart that is right, but for those that are given."""
    right = {
        "z_mean": (0.0, -0.1, 0.1),
        "z_log_sd": (0.0, -0.07, 0.07),
        "z_outside": (0.05, 0.04, 0.07),
        "pit_distance": (0.005, 0.0, 0.03),
    }
    return [Finding(metric, group, n, *figures, p) for metric, figures in {**right, **others}.items()]


@pytest.mark.parametrize("gates", ["gates.yaml", "gates_small.yaml"])
@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (charted(), "passed"),
        ([*charted(), *charted("site=A", 60)], "passed"),
        (charted(z_mean=(0.15, 0.05, 0.25)), "insufficient"),
        (charted(z_mean=(-0.4, -0.5, -0.3)), "refused"),
        (charted(z_log_sd=(0.7, 0.6, 0.8)), "refused"),
        (charted(z_log_sd=(-0.3, -0.4, -0.2)), "refused"),
        (charted(z_outside=(0.13, 0.11, 0.15)), "refused"),
        (charted(pit_distance=(0.04, 0.03, 0.06)), "refused"),
        (charted(pit_distance=(0.02, 0.01, 0.06)), "insufficient"),
        ([*charted(), *charted("site=A", 60, 1e-6, z_mean=(0.8, 0.6, 1.0))], "refused"),
        ([*charted(), *charted("site=A", 60, 0.2, z_mean=(0.5, 0.3, 0.7))], "passed"),
        ([*charted(), *charted("site=A", 60, 1e-6, z_log_sd=(0.7, 0.5, 0.9))], "refused"),
        ([*charted(), *charted("site=A", 60, 1e-6, pit_distance=(0.08, 0.05, 0.12))], "refused"),
        (
            [*charted(), Finding("z_mean", "site=B", 7, status="insufficient", note="7 of the 20 participants needed")],
            "passed",
        ),
        ([Finding("z_mean", "everybody", 12, status="insufficient", note="few")], "insufficient"),
    ],
)
def test_a_chart_is_judged_by_its_calibration(gates: str, rows: list[Finding], wanted: str) -> None:
    few = [
        replace(row, metric="leakage_beyond_training")
        for row in CLEAN
        if row.group == "exported/site" and row.metric == "leakage_excess"
    ]
    judge = read_gates(SHIPPED / gates).judge
    assert judge(findings_table([*CLEAN, *few])).verdict == "passed"
    decision = judge(findings_table([*CLEAN, *few, *rows]))
    assert decision.verdict == wanted
    assert any("site=B: insufficient" in warning for warning in decision.warnings) == (rows[-1].group == "site=B")


def test_strict_gates_want_proof_of_every_group_of_a_chart() -> None:
    strict = read_gates(SHIPPED / "gates_strict.yaml")
    own = Gates(tuple(gate for gate in strict.gates if gate.metric in {row.metric for row in charted()}), "")
    assert own.judge(findings_table(charted())).verdict == "passed"
    unclear = charted("site=A", 150, z_mean=(0.1, -0.05, 0.25))
    assert own.judge(findings_table([*charted(), *unclear])).verdict == "insufficient"
    assert own.judge(findings_table([*charted(), *charted("site=A", 60)])).verdict == "insufficient"


def test_gates_for_small_trainings_forgive_what_these_leave_and_nothing_else() -> None:
    default, small = (read_gates(SHIPPED / name) for name in ("gates.yaml", "gates_small.yaml"))
    few = [row for row in CLEAN if (row.metric, row.group) != ("leakage_excess", "exported/site")]
    few += [
        Finding("leakage_excess", "exported/site", 120, 0.2, 0.12, 0.28),
        Finding("leakage_beyond_training", "exported/site", 120, 0.01, -0.07, 0.09),
    ]
    assert default.judge(findings_table(few)).verdict == "insufficient"
    assert small.judge(findings_table(few)).verdict == "passed"
    wrong = [*few[:-1], Finding("leakage_beyond_training", "exported/site", 120, 0.18, 0.1, 0.26)]
    assert default.judge(findings_table(wrong)).verdict == "refused"
    assert small.judge(findings_table(wrong)).verdict == "refused"
    forgiven = {
        "removed covariates can hardly be read",
        "exports hardly depend on removed covariates, given the kept ones",
    }
    assert {gate.name for gate in default.gates} - {gate.name for gate in small.gates} == {
        *forgiven,
        "no more of them is left than so few people of training leave",
    }
    kept = [gate for gate in small.gates if gate.metric != "leakage_beyond_training"]
    assert all(gate in default.gates for gate in kept)
