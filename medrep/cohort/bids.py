"""Finding a person's image in a BIDS folder, raw or derivative, by suffix and entities."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medrep.cohort.inputs import Input
from medrep.cohort.participants import label
from medrep.errors import CohortError, listed

_ENDINGS = (".nii.gz", ".nii", ".mgz")
_ENTITY = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9+]+)")


@dataclass(frozen=True)
class BidsName:
    """The parts of a BIDS file name: its entities in order, and its suffix."""

    entities: dict[str, str]
    suffix: str


def parse_name(name: str) -> BidsName | None:
    """Split ``sub-01_ses-2_desc-x_T1w.nii.gz`` into entities and suffix; None where it is no image of BIDS form."""
    stem = next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), None)
    if stem is None:
        return None
    *pairs, suffix = stem.split("_")
    matches = [_ENTITY.fullmatch(pair) for pair in pairs]
    if not pairs or any(match is None for match in matches):
        return None
    return BidsName({match[1]: match[2] for match in matches if match}, suffix)


def find_images(root: Path, people: list[tuple[str, str]], wanted: Input) -> tuple[dict[int, Path], dict[int, str]]:
    """Find one image for each person (and session).

    Args:
        root: The BIDS folder.
        people: Participant id and session id (empty where there are no sessions).
        wanted: Suffix, ``desc`` and entities the name must have.

    Returns:
        Position in ``people`` -> file, and position -> one line for each person without exactly one file.
    """
    found: dict[int, Path] = {}
    problems: dict[int, str] = {}
    for position, (participant, session) in enumerate(people):
        folder = root / f"sub-{label(participant, 'sub')}"
        candidates = [path for path in _candidates(folder, session) if _matches(path.name, session, wanted)]
        if len(candidates) == 1:
            found[position] = candidates[0]
        elif candidates:
            names = ", ".join(str(path.relative_to(root)) for path in candidates[:3])
            problems[position] = f"{len(candidates)} images match ({names}); choose with input.entities or input.desc"
        else:
            problems[position] = f"no {_pattern(wanted)} under {folder.name}/"
    return found, problems


def refuse_outside(root: Path, paths: Iterable[tuple[str, Path]]) -> None:
    """Refuse paths that do not stay inside ``root`` after links and dots are resolved.

    Args:
        root: The cohort's folder.
        paths: Whose file, and the file.

    Raises:
        CohortError: All that lead out of the folder.
    """
    home = root.resolve()
    problems = [f"{who}: {problem}" for who, path in paths if (problem := _outside(root, home, path))]
    if problems:
        cure = "copy the files into the cohort's folder"
        raise CohortError(listed("paths that are no file of the cohort", problems, cure))


def outside_problems(root: Path, paths: Mapping[int, Path]) -> dict[int, str]:
    """Return one line for each path that does not stay inside ``root`` after links and dots are resolved."""
    home = root.resolve()
    return {position: problem for position, path in paths.items() if (problem := _outside(root, home, path))}


def _outside(root: Path, home: Path, path: Path) -> str:
    try:
        resolved = path.resolve()
    except ValueError as error:
        return f"{str(path)!r} is no path ({error})"
    except (OSError, RuntimeError):
        return f"{path} is a loop of links"
    return "" if resolved.is_relative_to(home) else f"{path} leads out of {root}"


def suffixes(root: Path) -> list[str]:
    """Return the image suffixes that occur in a BIDS folder, for messages."""
    names = (parse_name(path.name) for path in root.glob("sub-*/**/*") if path.name.endswith(_ENDINGS))
    return sorted({name.suffix for name in names if name})


def refuse_problems(root: Path, problems: list[str]) -> None:
    """Raise one error that lists everybody without a usable image.

    Raises:
        CohortError: If there is any problem.
    """
    if problems:
        there = ", ".join(suffixes(root)) or "none"
        cure = f"image suffixes in the folder: {there}; set input.suffix, or leave the people out with --exclude"
        raise CohortError(listed(f"{root}: people without exactly one image", problems, cure))


def _candidates(folder: Path, session: str) -> list[Path]:
    start = folder / f"ses-{label(session, 'ses')}" if session else folder
    return sorted(path for path in start.glob("**/*") if path.name.endswith(_ENDINGS)) if start.is_dir() else []


def _matches(name: str, session: str, wanted: Input) -> bool:
    parsed = parse_name(name)
    if parsed is None or parsed.suffix != wanted.suffix or parsed.entities.get("desc", "") != wanted.desc:
        return False
    if session and parsed.entities.get("ses") != label(session, "ses"):
        return False
    return all(parsed.entities.get(entity) == str(value) for entity, value in wanted.entities.items())


def _pattern(wanted: Input) -> str:
    parts = [f"{entity}-{value}" for entity, value in wanted.entities.items()]
    parts += [f"desc-{wanted.desc}"] if wanted.desc else []
    return "_".join(["sub-*", *parts, wanted.suffix]) + ".nii[.gz]"
