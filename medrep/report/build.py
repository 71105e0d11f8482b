"""A folder that a command wrote -> its report.html, from the files alone."""

from pathlib import Path
from typing import Any

import yaml

from medrep.errors import MedrepError
from medrep.exhibits.store import read_exhibit
from medrep.json_texts import read_json
from medrep.report.chapters.auditing import auditing_sections, auditing_title
from medrep.report.chapters.demonstration import CLEAN, LEAKAGE, demonstration_sections
from medrep.report.chapters.moving import moving_sections
from medrep.report.chapters.training import training_sections
from medrep.report.page import Section, write_page

PAGE = "report.html"


def write_report(out: Path) -> Path:
    """Write OUT/report.html.

    Args:
        out: What train, export, counterfactual, audit or demo wrote.

    Returns:
        The page.

    Raises:
        MedrepError: A folder of something else, or damaged files.
    """
    title, said, sections = sections_of(out)
    write_page(out / PAGE, title, said, sections)
    return out / PAGE


def sections_of(out: Path) -> tuple[str, str, list[Section]]:
    """Return title, a sentence, and the sections of a run.

    Raises:
        MedrepError: A folder of something else, or damaged files.
    """
    about = read_about(out)
    try:
        if about["command"] == "audit":
            return auditing_title(about), "On people whom the model never saw.", auditing_sections(out, about)
        if about["command"] == "demo":
            return (
                "medrep demo",
                "Generated brains at four sites; no real person is shown.",
                demonstration_sections(out),
            )
        if about["command"] == "train":
            title = f"Training: {about['model']} model of {about['cohort']}"
            return title, _AS_DATA, training_sections(out, about)
        return about["title"], _AS_DATA, moving_sections(out, about)
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        raise _damaged(out, error) from None


def read_about(out: Path) -> dict[str, Any]:
    """Return what a folder says of itself, with the ``command`` that wrote it.

    Raises:
        MedrepError: A folder of something else, or damaged files.
    """
    try:
        if (out / "audit.json").is_file():
            return {"command": "audit", **read_json((out / "audit.json").read_text(encoding="utf-8"))}
        if (out / CLEAN).is_dir() and (out / LEAKAGE).is_file():
            return {"command": "demo"}
    except (OSError, ValueError) as error:
        raise _damaged(out, error) from None
    about = read_exhibit(out, "about")
    if about is None or "command" not in about.content:
        raise MedrepError(
            f"{out}: nothing to report on; give what medrep train, export, counterfactual, audit or demo wrote"
        )
    return dict(about.content)


def _damaged(out: Path, error: Exception) -> MedrepError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MedrepError(f"{out}: its files cannot be read ({reason}); call the command that wrote it again")


_AS_DATA = "Where this page shows or names people, share it only as you would share the data."
