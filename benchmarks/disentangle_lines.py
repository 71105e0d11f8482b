"""The acceptance lines of the benchmark disentangle: what was asked of medrep-vae, and what was measured.

Each line is judged on the mean over seeds; the figure of every seed is printed beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.contenders import ALL_REMOVED, AS_MEASURED, LATENTS, SITE_REMOVED
from benchmarks.report import Line

OURS, RAW = "medrep-vae", "raw"
ALONE, OTHER_HALF = "age and sex alone", "real, other half"
RIVALS = ("combatlearn-gam", "combatlearn-covbat-gam", "demovae", "demovae-scaled", "medrep-linear")
DEMOVAES = ("demovae", "demovae-scaled")
KEEPS_AGE = 0.1
KEPT = 0.02
DIAGNOSIS_KEPT = 0.03
RECOGNISED_KEPT = 0.9
MOST_LEFT = {"sex": ("sex AUC", 0.60), "age": ("age R2", 0.05), "site": ("site AUC", 0.60)}
TOLD_APART = 0.75
EFFECTS_AGREE = 0.9
TIMES_FASTER = 10.0


@dataclass(frozen=True)
class Measured:
    """Rows of the three tables.

    Attributes:
        outputs: One a seed, method and output: site, age, sex, diagnosis, recognised.
        injections: One a seed and method: age and sex that were shuffled, and their floors.
        decoders: One a seed and method: r2, r2_pooled, told_apart, effect_age, effect_sex, effect_site, seconds_fit.
    """

    outputs: list[dict[str, object]]
    injections: list[dict[str, object]]
    decoders: list[dict[str, object]]

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the tables by the name of their TSV."""
        return {
            "disentangle": pd.DataFrame(self.outputs),
            "disentangle_injection": pd.DataFrame(self.injections),
            "disentangle_decoder": pd.DataFrame(self.decoders),
        }


def judge(frames: dict[str, pd.DataFrame]) -> list[Line]:
    """Return all lines.

    Args:
        frames: Of `Measured.frames`.
    """
    outputs, decoders = frames["disentangle"], frames["disentangle_decoder"]
    return [
        *_site_lines(outputs),
        *_injection_lines(frames["disentangle_injection"]),
        *(line for part in (LATENTS, ALL_REMOVED) for line in _all_removed_lines(outputs, part)),
        *_decoder_lines(decoders),
    ]


def keeping_age(outputs: pd.DataFrame) -> list[str]:
    """Name the peers whose features without site tell age as well as the raw ones, within KEEPS_AGE on both sides."""
    raw = _figures(outputs, RAW, AS_MEASURED, "age").mean()
    ages = {name: _figures(outputs, name, SITE_REMOVED, "age").mean() for name in RIVALS}
    return [name for name, age in ages.items() if abs(age - raw) <= KEEPS_AGE]


def _site_lines(outputs: pd.DataFrame) -> list[Line]:
    alone = outputs[outputs["method"] == ALONE].set_index("seed")["site"]
    excess = {name: _figures(outputs, name, SITE_REMOVED, "site") - alone for name in (OURS, *keeping_age(outputs))}
    ours = excess.pop(OURS)
    asked = "site removed: site AUC above that from age and sex alone <= half of the best peer's that keeps age"
    if excess:
        best = min(excess, key=lambda name: excess[name].mean())
        least = excess[best].mean()
        text = f"{ours.mean():+.3f} against {least:+.3f} of {best} ({_seeds(ours, '+.3f')})"
        lines = [_line(asked, text, ours.mean() <= least / 2)]
    else:
        lines = [_line(asked, f"{ours.mean():+.3f}; no peer keeps age ({_seeds(ours, '+.3f')})", True)]
    for figure, name in (("age", "age R2"), ("sex", "sex AUC")):
        change = _figures(outputs, OURS, SITE_REMOVED, figure) - _figures(outputs, RAW, AS_MEASURED, figure)
        text = f"{change.mean():+.3f} ({_seeds(change, '+.3f')})"
        lines.append(_line(f"site removed: {name} within {KEPT} of raw, either side", text, abs(change.mean()) <= KEPT))
    return lines


def _injection_lines(injections: pd.DataFrame) -> list[Line]:
    ours = injections[injections["method"] == OURS].set_index("seed")
    lines = []
    for figure, name in (("age", "age R2"), ("sex", "sex AUC")):
        found, floor = ours[figure], ours[f"{figure}_floor"]
        text = f"{found.mean():.3f} against {floor.mean():.3f} ({_seeds(found)})"
        lines.append(_line(f"no injection: shuffled {name} <= permutation floor", text, found.mean() <= floor.mean()))
    return lines


def _all_removed_lines(outputs: pd.DataFrame, part: str) -> list[Line]:
    lines = []
    where = part if part == LATENTS else "features without all"
    for figure, (name, most) in MOST_LEFT.items():
        found = _figures(outputs, OURS, part, figure)
        text = f"{found.mean():.3f} ({_seeds(found)})"
        lines.append(_line(f"{where}: {name} <= {most:.2f}", text, found.mean() <= most))
    lost = _figures(outputs, RAW, AS_MEASURED, "diagnosis") - _figures(outputs, OURS, part, "diagnosis")
    asked = f"{where}: AUC of a planted diagnosis no more than {DIAGNOSIS_KEPT} below raw"
    lines.append(_line(asked, f"{-lost.mean():+.3f} ({_seeds(-lost, '+.3f')})", lost.mean() <= DIAGNOSIS_KEPT))
    share = _figures(outputs, OURS, part, "recognised") / _figures(outputs, RAW, AS_MEASURED, "recognised")
    asked = f"{where}: people recognised >= {RECOGNISED_KEPT:.0%} as often as in raw"
    lines.append(_line(asked, f"{share.mean():.1%} ({_seeds(share, '.1%')})", share.mean() >= RECOGNISED_KEPT))
    return lines


def _decoder_lines(decoders: pd.DataFrame) -> list[Line]:
    by_method = {name: rows.set_index("seed") for name, rows in decoders.groupby("method")}
    ours = by_method[OURS]
    peers = {name: by_method[name] for name in DEMOVAES if name in by_method}
    lines = []
    for figure, name in (("r2", "mean of columns"), ("r2_pooled", "pooled")):
        theirs = max((rows[figure].mean() for rows in peers.values()), default=float("nan"))
        text = f"{ours[figure].mean():.3f} against {theirs:.3f} ({_seeds(ours[figure])})"
        asked = f"reconstruction R2 of unseen people, {name}, above the better demovae's"
        lines.append(_line(asked, text, ours[figure].mean() > theirs))
    found = ours["told_apart"]
    asked = f"sampled people: told from real ones with AUC <= {TOLD_APART}"
    lines.append(_line(asked, f"{found.mean():.3f} ({_seeds(found)})", found.mean() <= TOLD_APART))
    for name in ("age", "sex", "site"):
        found, ceiling = ours[f"effect_{name}"], by_method[OTHER_HALF][f"effect_{name}"]
        text = f"{found.mean():.3f}; other real people {ceiling.mean():.3f} ({_seeds(found)})"
        asked = f"sampled people: effects of {name} correlate with the real ones >= {EFFECTS_AGREE}"
        lines.append(_line(asked, text, found.mean() >= EFFECTS_AGREE))
    if "demovae" in by_method:
        times = by_method["demovae"]["seconds_fit"] / ours["seconds_fit"]
        text = f"{times.mean():.1f} x; {ours['seconds_fit'].mean():.1f} s ({_seeds(times, '.1f')})"
        lines.append(
            _line(f"fit >= {TIMES_FASTER:g} x faster than demovae's default", text, times.mean() >= TIMES_FASTER)
        )
    return lines


def _figures(outputs: pd.DataFrame, method: str, part: str, figure: str) -> pd.Series:
    """Return a figure by seed; nothing where the method has no such output."""
    rows = outputs[(outputs["method"] == method) & (outputs["output"] == part)]
    return rows.set_index("seed")[figure]


def _seeds(values: pd.Series, form: str = ".3f") -> str:
    return "seeds " + ", ".join(format(value, form) for value in values)


def _line(asked: str, measured: str, passed: bool | np.bool_) -> Line:
    return Line("disentangle", asked, measured, bool(passed))
