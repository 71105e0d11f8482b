"""JSON sidecars of images, and what they say that medrep did to a cohort before.

A removal is right once: the effects that a model takes away are those of data that still have them. So whoever is given such
data again has to be told.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrep._texts import read_json
from medrep.cohort.bids import (
    IMAGE_ENDINGS,
    POINT_ENDINGS,
    SURFACE_ENDINGS,
    BidsName,
    form_of,
    parse_name,
    refuse_outside,
    same_value,
)
from medrep.errors import CohortError, listed

_ENDING = ".json"


class Sidecars:
    """The JSON files of a cohort.

    Args:
        root: The cohort's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[Path, list[Path]] = {}

    def value(self, image: Path, key: str) -> tuple[Any, Path] | None:
        """Return what the nearest JSON file that holds a key says of an image, and that file; None where none does.

        A file applies if it lies in the image's folder or one above it within the cohort, has the image's suffix, and no
        entity that the image has not (``task-rest_bold.json`` for ``sub-01_task-rest_run-1_bold.nii.gz``). The nearer one is
        taken, and in one folder the one with more entities. An image without a name of BIDS form has the file of its own name.

        Args:
            image: An image below the cohort's folder.
            key: For instance ``RepetitionTime``.

        Raises:
            CohortError: A file that is no JSON object, or that leads out of the cohort's folder; one line.
        """
        for path in self._applicable(image):
            refuse_outside(self._root, [("sidecar", path)])
            content = _read(path)
            if key in content:
                return content[key], path
        return None

    def _applicable(self, image: Path) -> list[Path]:
        own = parse_name(image.name)
        if own is None:
            path = image.with_name(image.name.removesuffix(".gz").rsplit(".", 1)[0] + _ENDING)
            return [path] if path.is_file() else []
        folders = [folder for folder in image.parents if folder == self._root or self._root in folder.parents]
        return [path for folder in folders for path in self._of(folder, own)]

    def _of(self, folder: Path, own: BidsName) -> list[Path]:
        if folder not in self._listed:
            self._listed[folder] = sorted(folder.glob(f"*{_ENDING}"))
        found = []
        for path in self._listed[folder]:
            *pairs, suffix = path.name.removesuffix(_ENDING).split("_")
            entities = [pair.partition("-") for pair in pairs]
            if suffix == own.suffix and all(
                name in own.entities and same_value(own.entities[name], value) for name, _, value in entities
            ):
                found.append((-len(entities), path))
        return [path for _, path in sorted(found)]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"{path}: unusable ({error}); mend it, or take it away") from None
    if not isinstance(content, dict):
        raise CohortError(f"{path}: holds no JSON object; mend it, or take it away")
    return content


_MARK = b'"MedrepVersion"'
_ENDINGS = (*SURFACE_ENDINGS, *POINT_ENDINGS, *IMAGE_ENDINGS)
_REMOVAL = re.compile(r"Effects of (.+) removed; .* kept\.")
_COUNTERFACTUAL = re.compile(r"What a model expects with (.+); .* as (?:they are|it is)\.")


@dataclass(frozen=True)
class Earlier:
    """One thing that was done to some of the data.

    Attributes:
        covariates: Those that were removed or set; none of what a model drew.
        purpose: ``removal``, ``counterfactual`` or ``sample``.
        source: The sidecar that says so, below the cohort's folder; of several the first.
        people: How many sidecars say so; 0 where one speaks for everybody.
    """

    covariates: tuple[str, ...]
    purpose: str
    source: str
    people: int = 0

    @property
    def done(self) -> str:
        """The earlier processing, in words."""
        names = ", ".join(self.covariates)
        many = f" and {self.people - 1} more" if self.people > 1 else ""
        words = {
            "removal": f"effects of {names} removed already",
            "counterfactual": f"moved to another {names} already",
            "sample": "drawn by a model, not real people",
        }
        return f"{words[self.purpose]} ({self.source}{many})"


def earlier_work(root: Path, files: Iterable[Path] = ()) -> tuple[Earlier, ...]:
    """Return what was done to a cohort.

    Args:
        root: Its folder: dataset_description.json and features.json are looked at.
        files: Its images: the JSON beside each is looked at.
    """
    found = [one for name in ("features.json", "dataset_description.json") if (one := _of(root / name, root))]
    own: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for path in files:
        if one := _of(_sidecar(path), root):
            own.setdefault((one.covariates, one.purpose), []).append(one.source)
    found += [Earlier(covariates, purpose, names[0], len(names)) for (covariates, purpose), names in own.items()]
    unique: dict[tuple[tuple[str, ...], str], Earlier] = {}
    for one in found:
        unique.setdefault((one.covariates, one.purpose), one)
    return tuple(unique.values())


def refuse_again(earlier: Sequence[Earlier], transformed: Sequence[str], known: Sequence[str]) -> None:
    """Refuse to move covariates that were moved already.

    Args:
        earlier: What was done to the data.
        transformed: Covariates that would be moved now.
        known: Covariates that had been moved in the data of training, too: a model that was fitted on such data fits them.

    Raises:
        CohortError: What was done, and by which file that is known.
    """
    again = sorted({name for one in earlier for name in one.covariates if name in transformed and name not in known})
    if again:
        said = [one.done for one in earlier if set(one.covariates) & set(again)]
        cure = (
            f"a second time takes {', '.join(again)} away where it is no more: give the cohort as it was before"
            " (all that is to go in one --remove), or a model that was trained on data like these"
        )
        raise CohortError(listed("these data are medrep's own", said, cure))


def _sidecar(image: Path) -> Path:
    form = form_of(image.name, _ENDINGS) or image.suffix
    return image.with_name(f"{image.name.removesuffix(form)}.json")


def _of(path: Path, root: Path) -> Earlier | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if _MARK not in raw and b'"medrep"' not in raw:
        return None
    try:
        content = read_json(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # whoever needs the file says what is wrong with it
    if not isinstance(content, dict):
        return None
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return _read_mark(content, name) if _MARK in raw else _described(content, name)


def _read_mark(content: Mapping[str, Any], name: str) -> Earlier | None:
    """Read the sidecar of a table or an image."""
    if isinstance(removed := content.get("Removed"), list) and removed:
        return Earlier(tuple(str(one) for one in removed), "removal", name)
    if isinstance(transformed := content.get("Covariates"), dict) and transformed:
        return Earlier(tuple(str(one) for one in transformed), "counterfactual", name)
    return Earlier((), "sample", name) if "Seed" in content else None


def _described(content: Mapping[str, Any], name: str) -> Earlier | None:
    """Read the sentence of a dataset_description.json."""
    made = content.get("GeneratedBy")
    told = (
        [str(one.get("Description", "")) for one in made if isinstance(one, dict) and one.get("Name") == "medrep"]
        if isinstance(made, list)
        else []
    )
    for text in told:
        if match := _REMOVAL.match(text):
            return Earlier(tuple(match[1].split(", ")), "removal", name)
        if match := _COUNTERFACTUAL.match(text):
            return Earlier(tuple(part.partition("=")[0] for part in match[1].split(", ")), "counterfactual", name)
        if text.startswith("Drawn by a model"):
            return Earlier((), "sample", name)
    return None
