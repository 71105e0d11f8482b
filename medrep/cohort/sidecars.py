"""What the JSON files beside an image say of it, by the inheritance of BIDS: those higher up in the folder count, too."""

from pathlib import Path
from typing import Any

from medrep.cohort.bids import BidsName, parse_name, refuse_outside, same_value
from medrep.errors import CohortError
from medrep.json_texts import read_json

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
