"""Gates: what an audit has to show before a model is promoted, and the decision that follows from them.

A gate bounds a figure of every finding it matches, and has three ends. ``ci_high: {max: m}`` passes what is shown to be under
m, refuses what is shown to be over it (the whole interval is), and finds too little evidence in between; ``estimate: {max: m}``
likewise passes what is under m by estimate. ``ci_low: {max: m}`` wants proof of harm: it passes all that is not shown to be
over m. A gate whose findings are ``left_to`` another metric does not pass what is shown to be outside, and leaves it to the
gates of that metric to refuse, where the audit has it of the same group. A gate that is ``significant: a`` holds its bounds
against what a test finds at that level (``q``), and passes the rest: what chance, or few people of training, explain is no fault
however large it is, and what many people show is none where it is small. Too little evidence never passes, and comes with how
many people would be enough. A finding with too few people, or without the figure that is bounded, is insufficient, too, and the
gate says what becomes of it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import yaml

from medrep._persisted import stored
from medrep._structuring import unknown_key
from medrep._texts import read_yaml
from medrep.errors import ConfigError, listed

AcceptanceCheck = Literal["passed", "refused", "insufficient", "absent"]
Insufficient = Literal["refuse", "warn", "ignore"]
Missing = Literal["refuse", "warn", "ignore"]
FIGURES = ("estimate", "ci_low", "ci_high", "p", "q")
_Z95, _Z80 = 1.96, 0.84  # normal quantiles: of a 95% interval, and of four audits in five


@dataclass(frozen=True)
class Bound:
    """Where a figure has to lie; both ends are allowed values."""

    figure: str
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        ends = [f"at least {self.low:g}"] if self.low > -math.inf else []
        return " and ".join(ends + ([f"at most {self.high:g}"] if self.high < math.inf else []))


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        name: For people to read.
        metric: Of the findings it looks at.
        group: Of the findings it looks at; ``*`` stands for any text.
        not_group: Of findings of these it does not look at; empty for none.
        bounds: What has to hold for every one of them.
        min_n: Findings of fewer people are insufficient.
        significant: Findings whose ``q`` is above pass: no test finds them; at 1 all are held against the bounds.
        left_to: The metric whose gates refuse what is shown to be outside of a bound, in audits that have it; empty for none.
        insufficient: What an insufficient finding does: ``refuse``; ``warn`` and ``ignore`` leave it out, the first in words.
        missing: What no finding at all does, or none that is not left out; `warn` and `ignore` leave the gate out.
    """

    name: str
    metric: str
    bounds: tuple[Bound, ...]
    group: str = "*"
    not_group: str = ""
    min_n: int = 0
    significant: float = 1.0
    left_to: str = ""
    insufficient: Insufficient = "refuse"
    missing: Missing = "refuse"


@dataclass(frozen=True)
class Judged:
    """Result of one gate, with how many findings were compared with the bounds.

    ``insufficient``: nothing is shown to speak against it, and too little for it; ``absent``: it found nothing to look at,
    and that is allowed. The reasons are every finding that refused, or was insufficient; the warnings what was left out.
    """

    gate: str
    verdict: AcceptanceCheck
    looked_at: int
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Result of all gates: ``refused`` if one refused, ``insufficient`` if one had too little evidence or all had none."""

    verdict: AcceptanceCheck
    judged: tuple[Judged, ...] = field(metadata=stored("gates"))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, a line each; those who refused first."""
        ordered = sorted(self.judged, key=lambda one: one.verdict != "refused")
        return tuple(f"{one.gate}: {reason}" for one in ordered for reason in one.reasons)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Findings that were left out, a line each."""
        return tuple(f"{one.gate}: {warning}" for one in self.judged for warning in one.warnings)


@dataclass(frozen=True)
class Gates:
    """All gates of a file, in its order, and the file's text."""

    gates: tuple[Gate, ...]
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of the file's text, in hexadecimal."""
        return sha256(self.source.encode()).hexdigest()

    def judge(self, table: pd.DataFrame) -> Decision:
        """Hold an audit, a table of findings, against the gates."""
        judged = tuple(_judge(gate, table) for gate in self.gates)
        verdicts = {one.verdict for one in judged}
        if verdicts == {"absent"}:
            nothing = "no gate found anything to look at in the audit"
            return Decision("insufficient", (*judged, Judged("all", "insufficient", 0, (nothing,))))
        worst: tuple[AcceptanceCheck, ...] = ("refused", "insufficient", "passed")
        passed_over = _passed_over(self.gates, table)
        if passed_over:
            judged = (*judged, Judged("not judged", "absent", 0, warnings=passed_over))
        return Decision(next(verdict for verdict in worst if verdict in verdicts), judged)


def read_gates(path: Path) -> Gates:
    """Read a YAML list of gates.

    Raises ConfigError for unreadable YAML, unknown keys (with the nearest known one), values that are not allowed; all of
    them.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = read_yaml(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path}: holds no list of gates; see configs/gates.yaml")
    problems: list[str] = []
    gates = [_gate(entry, number, problems) for number, entry in enumerate(content, 1)]
    names = [gate.name for gate in gates if gate is not None]
    problems += [f"two gates have the name {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise ConfigError(listed(f"{path}: not valid gates", problems))
    return Gates(tuple(gate for gate in gates if gate is not None), text)


def _judge(gate: Gate, table: pd.DataFrame) -> Judged:
    """Judge the findings of one gate."""
    refusals, unclear, unknown, looked_at = [], [], [], 0
    for row in table[table["metric"] == gate.metric].to_dict("records"):
        if not _matches(gate.group, row["group"]) or (gate.not_group and _matches(gate.not_group, row["group"])):
            continue
        lacking = _lacking(gate, row)
        if lacking:
            unknown.append(f"{row['metric']} {row['group']}: {lacking}")
            continue
        looked_at += 1
        for bound in gate.bounds if not row["q"] > gate.significant else ():
            if bound.low <= row[bound.figure] <= bound.high:
                continue
            text = f"{row['metric']} {row['group']}: {bound.figure} {row[bound.figure]:.4g}, allowed: {bound} (n = {row['n']}"
            if not _shown(bound, row):
                unclear.append(f"{text}{_enough(bound, row)})")
            elif gate.left_to and _has(table, gate.left_to, row["group"]):
                unclear.append(f"{text}; shown, so that more audited people will not help; see {gate.left_to})")
            else:
                refusals.append(f"{text})")
    strict = gate.insufficient == "refuse"
    reasons = [*refusals, *unclear, *(unknown if strict else [])]
    nothing = not looked_at and not (strict and unknown)
    if nothing and gate.missing == "refuse":
        left_out = f" that is not left out ({len(unknown)} insufficient)" if unknown else ""
        reasons.append(f"{gate.metric} {gate.group}: no finding{left_out}")
    verdict: AcceptanceCheck = (
        "refused" if refusals else "insufficient" if reasons else "passed" if looked_at else "absent"
    )
    warnings = tuple(unknown) if gate.insufficient == "warn" else ()
    if nothing and not unknown and gate.missing == "warn":
        warnings = (f"{gate.metric} {gate.group}: no finding; the audit was not asked for it", *warnings)
    return Judged(gate.name, verdict, looked_at, tuple(reasons), warnings)


def _passed_over(gates: tuple[Gate, ...], table: pd.DataFrame) -> tuple[str, ...]:
    """Return findings of too little that gates would look at but for their ``not_group``: whoever reads a pass has to know."""
    found: dict[str, str] = {}
    for row in table[table["status"] != "ok"].to_dict("records"):
        metric, group = str(row["metric"]), str(row["group"])
        near = [gate for gate in gates if gate.metric == metric or gate.metric.startswith(f"{metric}_")]
        near = [gate for gate in near if _matches(gate.group, group)]
        left_out = [gate for gate in near if gate.not_group and _matches(gate.not_group, group)]
        if left_out and not any(gate.metric == metric for gate in near if gate not in left_out):
            found[group] = f"{group}: {metric} of {row['n']} people could not be measured" + (
                f" ({row['note']})" if row["note"] else ""
            )
    return tuple(found.values())


def _has(table: pd.DataFrame, metric: str, group: str) -> bool:
    found = (table["metric"] == metric) & (table["group"] == group) & (table["status"] == "ok")
    return bool(found.any())


def _shown(bound: Bound, row: Mapping[Any, Any]) -> bool:
    """Say whether a figure outside of a bound shows that it is broken: the interval is outside as a whole, or there is none."""
    over = row[bound.figure] > bound.high
    end = row["ci_low"] if over else row["ci_high"]
    if bound.figure in ("p", "q") or math.isnan(end):
        return True
    return bool(end > bound.high if over else end < bound.low)


def _enough(bound: Bound, row: Mapping[Any, Any]) -> str:
    """Say how many people would show that a bound holds, in four of five audits, if it does.

    What is taken for the truth is the estimate where the bound allows it, and else 0. Errors shrink with the root of n.
    """
    error = (row["ci_high"] - row["ci_low"]) / (2 * _Z95)
    over = row[bound.figure] > bound.high
    limit = bound.high if over else bound.low
    allowed = [value for value in (row["estimate"], 0.0) if (value < limit if over else value > limit)]
    if not allowed or not error > 0:
        return ""
    wanted = _Z80 if bound.figure == "estimate" else _Z95 + _Z80
    factor = (wanted * error / (limit - allowed[0])) ** 2
    people = max(math.ceil(row["n"] * factor / 10) * 10, row["n"] + 10)
    return f"; about {people} would be enough if it is truly {allowed[0]:.2g}"


def _matches(pattern: str, group: str) -> bool:
    """Say whether a group fits a pattern. Only ``*`` is special: groups hold brackets of their own."""
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), group, re.DOTALL) is not None


def _lacking(gate: Gate, row: Mapping[Any, Any]) -> str:
    """Say what a finding lacks to be judged; nothing if it lacks nothing."""
    if row["status"] != "ok":
        note = f", {row['note']}" if row["note"] else ""
        return f"insufficient (n = {row['n']}{note})"
    if row["n"] < gate.min_n:
        return f"n = {row['n']}, wanted: {gate.min_n}"
    wanted = [bound.figure for bound in gate.bounds] + (["q"] if gate.significant < 1 else [])
    without = [figure for figure in wanted if math.isnan(row[figure])]
    return f"has no {', '.join(without)} (n = {row['n']})" if without else ""


def _gate(entry: object, number: int, problems: list[str]) -> Gate | None:
    if not isinstance(entry, dict):
        problems.append(f"gate {number}: {entry!r} is not a set of keys and values")
        return None
    name = entry.get("name")
    where = f"gate {number} ({name})" if isinstance(name, str) else f"gate {number}"
    before = len(problems)
    known = [field.name for field in fields(Gate) if field.name != "bounds"] + list(FIGURES)
    problems += [f"{where}: {unknown_key(str(key), known, '')}" for key in entry if key not in known]
    texts = {"name": None, "metric": None, "group": "*", "not_group": "-", "left_to": "-"}
    for key, default in texts.items():
        text = entry.get(key, default)
        if not isinstance(text, str) or not text:
            problems.append(f"{where}: {key} is absent or no text")
    for key, allowed in (("insufficient", get_args(Insufficient)), ("missing", get_args(Missing))):
        if entry.get(key, "refuse") not in allowed:
            problems.append(f"{where}: {key} {entry[key]!r} is not allowed; allowed: {', '.join(allowed)}")
    least = entry.get("min_n", 0)
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        problems.append(f"{where}: min_n {least!r} is not a whole number from 0")
    level = entry.get("significant", 1.0)
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level <= 1:
        problems.append(f"{where}: significant {level!r} is not a number above 0 and at most 1, such as 0.05")
    bounds = [_bound(figure, entry[figure], where, problems) for figure in FIGURES if figure in entry]
    if not bounds:
        problems.append(
            f"{where}: bounds nothing; give one of {', '.join(FIGURES)}, for instance ci_high: {{max: 0.1}}"
        )
    if len(problems) > before:
        return None
    plain = {key: value for key, value in entry.items() if key not in FIGURES}
    return Gate(**plain, bounds=tuple(bounds))


def _bound(figure: str, content: object, where: str, problems: list[str]) -> Bound:
    if not isinstance(content, dict) or not content:
        problems.append(f"{where}: {figure} {content!r} is no bound; write {{max: 0.1}}, {{min: 0}} or both")
        return Bound(figure)
    problems += [
        f"{where}: {unknown_key(str(key), ('min', 'max'), figure)}" for key in content if key not in ("min", "max")
    ]
    ends = {"min": -math.inf, "max": math.inf}
    for key in ends:
        value = content.get(key, ends[key])
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            problems.append(f"{where}: {figure}.{key} {value!r} is no number")
        else:
            ends[key] = float(value)
    if ends["min"] > ends["max"]:
        problems.append(f"{where}: {figure} has its min above its max, which nothing passes")
    return Bound(figure, ends["min"], ends["max"])
