"""scores.tsv: one row a person, with a dictionary of its columns; latents beside it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from medrep.atomic import atomic_file, write_json
from medrep.export.derivative import write_latents
from medrep.export.outcomes import Outcome

STATUS, SCORED, FAILED = "status", "scored", "failed"
PREDICTED, GAP = "predicted_", "_gap"
OUTSIDE = "outside_training"
_UNITS = {
    "sd": "root mean square over columns, in residual standard deviations of training",
    "mm": "mean distance between the surface and the one that the model draws, mm",
}


def write_scores(
    folder: Path,
    outcomes: Iterable[Outcome],
    lines: Mapping[str, Callable[[], Iterable[str]]],
    ids: pd.DataFrame,
    unit: str,
    unshrink: str,
    outside: Mapping[str, float] | None = None,
) -> None:
    """Write scores.tsv and scores.json, and latents.tsv (latents_sd.tsv) of those who could be scored.

    Args:
        folder: Where to.
        outcomes: Everybody's, at least one of them good; gone through several times, a person at a time.
        lines: Names of rows, each with what yields those of everybody who could be scored.
        ids: Key columns, index: key; in the same order.
        unit: The model's ``error_unit``.
        unshrink: How the regression of predicted covariates to the mean was undone.
        outside: Person -> how far outside the range of training, sd; a column of its own where anybody is.
    """
    first = next(one for one in outcomes if not one.error)
    columns = [STATUS, *(name for name in first.figures if name != STATUS)]
    columns += [OUTSIDE] if outside else []
    good = _write_table(folder / "scores.tsv", outcomes, ids, columns, outside or {})
    write_json(folder / "scores.json", {name: _about(name, unit, unshrink) for name in columns})
    for name in ("latents", "latents_sd"):
        if name in lines:
            write_latents(folder / f"{name}.tsv", ids.loc[good], lines[name]())


def _write_table(
    path: Path, outcomes: Iterable[Outcome], ids: pd.DataFrame, columns: list[str], outside: Mapping[str, float]
) -> list[str]:
    """Return the keys of those who could be scored."""
    good = []
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join([*ids.columns, *columns]) + "\n")
        for who, one in zip(ids.itertuples(index=False), outcomes, strict=True):
            figures = {STATUS: FAILED if one.error else SCORED, **one.figures, OUTSIDE: outside.get(one.key, 0.0)}
            file.write("\t".join([*map(str, who), *(_cell(figures.get(name)) for name in columns)]) + "\n")
            if not one.error:
                good.append(one.key)
    return good


def _cell(value: float | str | None) -> str:
    if value is None or value != value:
        return "n/a"
    return value if isinstance(value, str) else repr(value)


def _about(name: str, unit: str, unshrink: str) -> dict[str, object]:
    if name.startswith(PREDICTED):
        corrected = {
            "none": "not corrected",
            "linear": "corrected by a line",
            "tweedie": "corrected by Tweedie's formula",
        }
        return {"Description": f"told from the data alone; regression to the mean {corrected[unshrink]}"}
    if name.endswith(GAP):
        return {"Description": f"{PREDICTED}{name.removesuffix(GAP)} minus what the table says"}
    about: dict[str, dict[str, object]] = {
        STATUS: {
            "Description": "whether the person could be scored, and is like the people of calibration, if training had any",
            "Levels": {
                SCORED: "scored; the model has no calibration, or was trained on this person",
                "accept": "scored, and like the people of calibration",
                "warn": "scored; hardly like them",
                "reject": "scored; unlike them, so that the scores are not to be relied on",
                FAILED: "not scored; see failures.tsv",
            },
        },
        "in_training": {
            "Description": "whether the model was trained on this row, so that its errors are not compared with others'",
            "Levels": {
                "yes": "it was",
                "no": "it was not",
                "n/a": "the model carries no digests of its training rows, and people.tsv does not lie beside it",
            },
        },
        "shift_p": {"Description": "share of calibration people who are as unusual (conformal p-value)"},
        "shift_reason": {"Description": "the statistic that stands out most, in standard deviations"},
        "reconstruction_error": {"Description": _UNITS[unit], "Units": unit},
        "deviation": {"Description": "how unusual a person is at their covariates; about 1 for a typical one"},
        OUTSIDE: {
            "Description": "how far beyond the range of training a covariate lies; the farthest of several, 0 inside",
            "Units": "standard deviations of the covariate in training",
        },
        "volume_mm3": {"Description": "volume of the organ", "Units": "mm3"},
    }
    return about[name]
