"""Images of participants, found in a BIDS folder or a MONAI datalist."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medrep._texts import read_json
from medrep.cohort.inputs import ImageInput
from medrep.cohort.participants import check_ids, label, refuse_doubles
from medrep.errors import CohortError, listed

_ENDINGS = (".nii.gz", ".nii", ".mgz", "_relmat.dense.tsv", "_relmat.tsv", "_relmat.npy")
FIRST, ABSENT = "first", "none"
"""Values of an entity that a person may ask for: the lowest run, and images without the entity."""

_SWITCHES = ("space", "run", "desc")
_ENTITY = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9+]+)")


@dataclass(frozen=True)
class BidsName:
    """The parts of a BIDS file name: its entities in order, and its suffix."""

    entities: dict[str, str]
    suffix: str


def parse_name(name: str) -> BidsName | None:
    """Split ``sub-01_ses-2_desc-x_T1w.nii.gz`` into entities and suffix; None where it is no image of BIDS form."""
    form = next((ending[ending.find(".") :] for ending in _ENDINGS if name.endswith(ending)), None)
    stem = None if form is None else name.removesuffix(form)
    if stem is None:
        return None
    *pairs, suffix = stem.split("_")
    matches = [_ENTITY.fullmatch(pair) for pair in pairs]
    if not pairs or any(match is None for match in matches):
        return None
    return BidsName({match[1]: match[2] for match in matches if match}, suffix)


def find_images(
    root: Path, people: list[tuple[str, str]], wanted: ImageInput
) -> tuple[dict[int, Path], dict[int, str]]:
    """Find one image for each person (and session).

    Links to folders and files of the cohort are followed. Entities are compared as BIDS indices: ``run-01`` is run 1.

    Args:
        root: The BIDS folder.
        people: Participant id and session id (empty where there are no sessions).
        wanted: Suffix, ``desc`` and entities the name must have.

    Returns:
        Position in ``people`` -> file, and position -> one line for each person without exactly one file.
    """
    home = os.path.realpath(root)
    found: dict[int, Path] = {}
    problems: dict[int, str] = {}
    for position, (participant, session) in enumerate(people):
        there = _holdings(root, home, label(participant, "sub"), label(session, "ses") if session else "")
        matching = [(path, name) for path, name in there.images if _matches(name, there, wanted)]
        if wanted.entities.get("run") == FIRST:
            matching = _first_run(matching)
        candidates = [path for path, _ in matching]
        if len(candidates) == 1:
            found[position] = candidates[0]
        elif candidates:
            names = ", ".join(str(path.relative_to(root)) for path in candidates[:3])
            more = f", and {len(candidates) - 3} more" if len(candidates) > 3 else ""
            problems[position] = f"{len(candidates)} images match ({names}{more}); choose with {_choices(matching)}"
        else:
            told = "; ".join(_instead(root, there, wanted))
            problems[position] = f"no {_pattern(wanted)} under sub-{there.participant}/" + (f": {told}" if told else "")
    return found, problems


def _first_run(matching: list[tuple[Path, BidsName]]) -> list[tuple[Path, BidsName]]:
    """Return the images of the lowest run."""

    def run(name: BidsName) -> tuple[int, str]:
        own = name.entities.get("run", "0")
        return (int(own) if own.isdecimal() else 0, own)

    lowest = min((run(name) for _, name in matching), default=None)
    return [(path, name) for path, name in matching if run(name) == lowest]


def _choices(matching: list[tuple[Path, BidsName]]) -> str:
    """Return in what the names of several images differ, as it is chosen."""
    entities = dict.fromkeys(entity for _, name in matching for entity in name.entities)
    differing = {entity: sorted({name.entities.get(entity, ABSENT) for _, name in matching}) for entity in entities}
    told = [
        f"{f'--{entity} ' if entity in _SWITCHES else f'--set input.entities.{entity}='}{' or '.join(values)}"
        for entity, values in differing.items()
        if len(values) > 1 and entity not in ("sub", "ses")
    ]
    return ", ".join(told) or "input.entities, or keep one of them"


def raw_dataset(root: Path) -> Path | None:
    """Return the raw dataset of a derivative; None where there is none on this machine.

    The first folder with participants.tsv, of those that dataset_description.json names (DatasetLinks, SourceDatasets), that
    the derivative holds as ``sourcedata``, and that it lies in as ``derivatives/NAME``.
    """
    links: list[str] = []
    try:
        said = read_json((root / "dataset_description.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        said = {}
    if isinstance(said, dict):
        named, sources = said.get("DatasetLinks"), said.get("SourceDatasets")
        links += [str(link) for link in named.values()] if isinstance(named, dict) else []
        links += (
            [str(one.get("URL", "")) for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
        )
    paths = [
        root / link.removeprefix("file://") for link in links if link and "://" not in link.removeprefix("file://")
    ]
    around = [root / "sourcedata", root / "sourcedata" / "raw", root.parent.parent, root.parent]
    found = (path for path in (*paths, *around) if (path / "participants.tsv").is_file())
    return next(found, None)


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
    home = os.path.realpath(root)
    names = [parse_name(path.name) for folder in sorted(root.glob("sub-*")) for path in _searched(folder, home, [])]
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


@dataclass(frozen=True)
class _Holdings:
    """Contents of a participant's folder, or of that of one session.

    Attributes:
        participant: Without ``sub-``.
        session: Without ``ses-``; empty where there are no sessions.
        images: Files and their names taken apart; those that are no image of BIDS form are left out.
        barred: Links that are not followed, a line each.
    """

    participant: str
    session: str
    images: tuple[tuple[Path, BidsName], ...]
    barred: tuple[str, ...]


def _holdings(root: Path, home: str, participant: str, session: str) -> _Holdings:
    barred: list[str] = []
    folder = root / f"sub-{participant}"
    start = _session_folder(folder, session) if session else folder
    images = [(path, name) for path in _searched(start, home, barred) if (name := parse_name(path.name))]
    return _Holdings(participant, session, tuple(images), tuple(f"{line} {root}" for line in barred))


def _session_folder(folder: Path, session: str) -> Path:
    """Return the folder of a session by its name, or else the only one of the same number."""
    exact = folder / f"ses-{session}"
    if exact.is_dir() or not folder.is_dir():
        return exact
    alike = [path for path in folder.glob("ses-*") if path.is_dir() and same_value(label(path.name, "ses"), session)]
    return alike[0] if len(alike) == 1 else exact


def _searched(folder: Path, home: str, barred: list[str]) -> list[Path]:
    """Return the image files below a folder, in order.

    Linked folders are searched after the others, once each, where they lie below ``home`` and do not hold the link.
    """
    found: list[Path] = []
    seen: set[str] = set()
    waiting, linked = [folder], list[Path]()
    while waiting or linked:
        place = waiting.pop() if waiting else linked.pop(0)
        real = os.path.realpath(place)
        if real in seen or not place.is_dir() or (place.is_symlink() and _below(os.path.realpath(place.parent), real)):
            continue
        seen.add(real)
        if place.is_symlink() and not _below(real, home):
            barred.append(f"{place.name} is a link that leads out of")
            continue
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            barred.append(f"{place.name} cannot be opened ({error.strerror}) in")
            continue
        for entry in entries:
            path = place / entry.name
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and path.is_dir()):
                (linked if entry.is_symlink() else waiting).append(path)
            elif entry.name.endswith(_ENDINGS):
                found.append(path)
            elif entry.is_symlink() and not path.exists():
                barred.append(f"{entry.name} is a link to nothing in")
    return sorted(found)


def _below(real: str, home: str) -> bool:
    return real == home or real.startswith(home.rstrip(os.sep) + os.sep)


def _matches(name: BidsName, there: _Holdings, wanted: ImageInput) -> bool:
    own = name.entities
    if name.suffix != wanted.suffix or not same_value(own.get("desc", ""), wanted.desc):
        return False
    if not same_value(own.get("sub", there.participant), there.participant):  # a linked folder of somebody else
        return False
    if there.session and not same_value(own.get("ses", ""), there.session):
        return False
    for entity, value in wanted.entities.items():
        if value == ABSENT:
            if entity in own:
                return False
        elif not (entity == "run" and value == FIRST) and not same_value(own.get(entity, ""), str(value)):
            return False
    return True


def same_value(one: str, other: str) -> bool:
    """Return whether two values of an entity are one: ``01`` is ``1``, as indices of BIDS are padded at will."""
    return one == other or (one.isdecimal() and other.isdecimal() and int(one) == int(other))


def _instead(root: Path, there: _Holdings, wanted: ImageInput) -> list[str]:
    """Return what is there where nothing matches: links that are not followed, folders, suffixes, entities or names."""
    said = list(there.barred)
    folder = root / f"sub-{there.participant}"
    if folder.is_symlink() and not folder.exists():
        return [f"{folder.name} is a link to nothing"]
    if not folder.is_dir():
        others = [path.name for path in root.glob("sub-*") if same_value(label(path.name, "sub"), there.participant)]
        return [f"there is {', '.join(sorted(others))}" if others else "no such folder"]
    named = [name for _, name in there.images if name.suffix == wanted.suffix]
    if not there.images and there.session and not said:
        samples = sorted(path.name for path in folder.glob("ses-*"))
        return [f"there: {', '.join(samples) or 'no session'}"]
    if not named:
        found = sorted({name.suffix for _, name in there.images})
        return said + ([f"suffixes there: {', '.join(found)}"] if found else [])
    asked = {"sub": there.participant, **({"ses": there.session} if there.session else {}), **_asked(wanted)}
    before = len(said)
    for entity, value in {**asked, "desc": wanted.desc}.items():
        values = sorted({name.entities.get(entity, "") for name in named})
        if not any(same_value(own, str(value)) for own in values):
            said.append("there: " + ", ".join(f"{entity}-{own}" if own else f"without {entity}" for own in values))
    if len(said) == before:
        names = [path.name for path, name in there.images if name.suffix == wanted.suffix]
        said.append(f"there: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    return said


def _asked(wanted: ImageInput) -> dict[str, str]:
    """Return the entities that a name must have."""
    return {name: value for name, value in wanted.entities.items() if value not in (ABSENT, FIRST)}


def _pattern(wanted: ImageInput) -> str:
    parts = [f"{entity}-{value}" for entity, value in _asked(wanted).items()]
    parts += [f"desc-{wanted.desc}"] if wanted.desc else []
    return "_".join(["sub-*", *parts, wanted.suffix]) + (".tsv or .npy" if wanted.suffix == "relmat" else ".nii[.gz]")


_SECTIONS = ("training", "validation", "test", "testing")


def read_datalist(path: Path, *, tolerant: bool = False) -> tuple[pd.DataFrame, list[Path]]:
    """Read a datalist.

    Args:
        path: The JSON file; image paths in it are relative to its folder.
        tolerant: Whether paths that leave the folder are left to the caller.

    Returns:
        A table of text cells and one image path a row.

    Raises:
        CohortError: Not a datalist, entries without ``image``, unusable ids, repeated people, or paths that leave the
            folder.
    """
    entries = _entries(path)
    offenders = [f"entry {n}: {entry}" for n, entry in enumerate(entries) if not isinstance(entry.get("image"), str)]
    if offenders:
        raise CohortError(listed(f"{path}: entries without an image path", offenders, 'add "image": "sub-01.nii.gz"'))
    places = [f"entry {n}" for n in range(len(entries))]
    images = [path.parent / str(entry["image"]) for entry in entries]
    if not tolerant:
        refuse_outside(path.parent, zip(places, images, strict=True))
    rows = [
        {
            "participant_id": _stem(str(entry["image"])),
            **{_text(k): _text(v) for k, v in entry.items() if k not in {"image", "label"}},
        }
        for entry in entries
    ]
    table = pd.DataFrame(rows).fillna("n/a").astype(str)
    check_ids(path, table, places)
    refuse_doubles(path, table)
    return table, images


def _entries(path: Path) -> list[dict[str, object]]:
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"{path}: not a JSON file ({error})") from None
    if isinstance(content, dict):
        sections = [content.get(section, []) for section in _SECTIONS]
        content = [entry for section in sections for entry in (section if isinstance(section, list) else [section])]
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise CohortError(f"{path}: not a datalist; it is a list of objects, bare or under {', '.join(_SECTIONS)}")
    return content


def _stem(image: str) -> str:
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


def _text(value: object) -> str:
    return "n/a" if value is None else str(value).encode("utf-8", "replace").decode()
