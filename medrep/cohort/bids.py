"""Images of participants, found in a BIDS folder or a MONAI datalist."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

import pandas as pd

from medrep._texts import read_json
from medrep.cohort.inputs import ImageInput
from medrep.cohort.participants import check_ids, label, refuse_doubles
from medrep.errors import CohortError, listed

IMAGE_ENDINGS = (".nii.gz", ".nii", ".mgz", "_relmat.dense.tsv", "_relmat.tsv", "_relmat.npy")
SURFACE_ENDINGS = (".shape.gii", ".func.gii", ".dscalar.nii", ".pscalar.nii", ".dtseries.nii", ".ptseries.nii")
POINT_ENDINGS = (".surf.gii", ".ply", "_landmarks.tsv")
_HEMISPHERE = re.compile(r"(?<=_hemi-)[LR](?=_.*\.(?:gii|ply)$)")
ABSENT = "none"
"""Value of an entity that asks for images without it."""
FIRST, ALL, MEAN = "first", "all", "mean"
"""Values of ``run`` where somebody has several: the lowest, each of them as a row of its own, and the mean of all."""
RUNS_APART = re.compile(r"(?:(?P<session>.+)_)?run-(?P<run>[A-Za-z0-9]+)")
"""Label of a session that is one run of it, or of somebody without sessions."""

_SWITCHES = ("space", "run", "desc")
_ENTITY = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9+]+)")


@dataclass(frozen=True)
class BidsName:
    """The parts of a BIDS file name: its entities in order, and its suffix."""

    entities: dict[str, str]
    suffix: str


def parse_name(name: str, endings: tuple[str, ...] = IMAGE_ENDINGS) -> BidsName | None:
    """Split ``sub-01_ses-2_desc-x_T1w.nii.gz`` into entities and suffix; None where it is no image of BIDS form."""
    form = form_of(name, endings) or None
    stem = None if form is None else name.removesuffix(form)
    if stem is None:
        return None
    *pairs, suffix = stem.split("_")
    matches = [_ENTITY.fullmatch(pair) for pair in pairs]
    if not pairs or any(match is None for match in matches):
        return None
    return BidsName({match[1]: match[2] for match in matches if match}, suffix)


def form_of(name: str, endings: tuple[str, ...]) -> str:
    """Return the format of a file of one of these endings, from its dot on; empty for another."""
    return next((ending[ending.find(".") :] for ending in endings if name.endswith(ending)), "")


def hemispheres(path: Path) -> tuple[Path, ...]:
    """Return the files of a person's image: those of hemi-L and hemi-R for one of them in GIFTI or PLY, else the file itself."""
    pair = tuple(path.with_name(_HEMISPHERE.sub(side, path.name)) for side in "LR")
    return pair if pair[0] != pair[1] else (path,)


def runs(path: Path) -> tuple[Path, ...]:
    """Return the files of all runs, in order, for a name with ``run-mean``, which stands for their mean; else the file itself."""
    before, mean, after = path.name.partition(f"_run-{MEAN}_")
    if not mean or path.is_file():
        return (path,)
    name = re.compile(rf"{re.escape(before)}_run-([A-Za-z0-9]+)_{re.escape(after)}")
    found = [
        (match[1], file) for file in path.parent.glob(escape(before) + "_run-*") if (match := name.fullmatch(file.name))
    ]
    return tuple(file for _, file in sorted(found, key=lambda one: _run_order(one[0]))) or (path,)


def image_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a person's image is made of: of both hemispheres, and of all runs where it is their mean."""
    return tuple(file for side in hemispheres(path) for file in runs(side))


def run_notes(files: Iterable[Path | None], wanted: ImageInput) -> list[str]:
    """Return what was done where people have several runs.

    Args:
        files: Of people; None for those without one.
        wanted: The ``input`` section.
    """
    asked = wanted.entities.get("run")
    if asked not in (FIRST, MEAN):
        return []
    names = [
        path.with_name(re.sub(r"_run-[A-Za-z0-9]+_", f"_run-{MEAN}_", path.name)) for path in files if path is not None
    ]
    several = sum(len(runs(name)) > 1 for name in names)
    done = "the lowest is taken" if asked == FIRST else "their mean is taken"
    return [f"several runs: {several} of {len(names)} images; {done} (--run {asked})"] if several else []


def find_images(
    root: Path, people: list[tuple[str, str]], wanted: ImageInput, endings: tuple[str, ...] = IMAGE_ENDINGS
) -> tuple[dict[int, Path], dict[int, str]]:
    """Find one image for each person (and session).

    Links to folders and files of the cohort are followed. Entities are compared as BIDS indices: ``run-01`` is run 1.

    Args:
        root: The BIDS folder.
        people: Participant id and session id (empty where there are no sessions).
        wanted: Suffix, ``desc`` and entities the name must have.
        endings: How names end that are looked at.

    Returns:
        Position in ``people`` -> file (of two hemispheres the left one's), and position -> one line for each person without
        exactly one file.
    """
    home = os.path.realpath(root)
    found: dict[int, Path] = {}
    problems: dict[int, str] = {}
    for position, (participant, session) in enumerate(people):
        visit = label(session, "ses") if session else ""
        bare, asked = _one_run(root, label(participant, "sub"), visit, wanted)
        there = _holdings(root, home, label(participant, "sub"), bare, endings)
        matching = [(path, name) for path, name in there.images if _matches(name, there, asked)]
        if asked.entities.get("run") == FIRST:
            matching = _first_run(matching)
        elif asked.entities.get("run") == MEAN:
            matching = _means(matching)
        whole: dict[tuple[Path, ...], tuple[Path, BidsName]] = {}
        for path, name in matching:
            whole.setdefault(hemispheres(path), (path, name))
        candidates = [path for path, _ in whole.values()]
        parts = {path for path, _ in matching}
        absent = [part for pair in whole for part in pair if part not in parts]
        if len(candidates) == 1 and absent and "hemi" not in wanted.entities:
            problems[position] = (
                f"{absent[0].name} is absent; for one hemisphere alone set input.entities to {{hemi: L}} or {{hemi: R}}"
            )
        elif len(candidates) == 1:
            found[position] = candidates[0]
        elif candidates:
            names = ", ".join(str(path.relative_to(root)) for path in candidates[:3])
            more = f", and {len(candidates) - 3} more" if len(candidates) > 3 else ""
            problems[position] = (
                f"{len(candidates)} images match ({names}{more}); choose with {_choices(list(whole.values()))}"
            )
        else:
            told = "; ".join(_instead(root, there, asked))
            problems[position] = f"no {_pattern(asked, endings)} under sub-{there.participant}/" + (
                f": {told}" if told else ""
            )
    return found, problems


def find_runs(root: Path, who: tuple[str, str], wanted: ImageInput) -> list[str]:
    """Return the runs of the images of a person (and session) that match but for their run; of one without runs none.

    Args:
        root: The BIDS folder.
        who: Participant id and session id (empty where there are no sessions).
        wanted: The ``input`` section.
    """
    endings = (*SURFACE_ENDINGS, *POINT_ENDINGS, *IMAGE_ENDINGS)
    there = _holdings(root, os.path.realpath(root), label(who[0], "sub"), label(who[1], "ses"), endings)
    found = {
        name.entities["run"] for _, name in there.images if "run" in name.entities and _matches(name, there, wanted)
    }
    return sorted(found, key=_run_order)


def _one_run(root: Path, participant: str, visit: str, wanted: ImageInput) -> tuple[str, ImageInput]:
    """Return the session of a visit, and what is wanted of it: one run where the visit is a run of it."""
    run = RUNS_APART.fullmatch(visit)
    if run is None or (root / f"sub-{participant}" / f"ses-{visit}").is_dir():
        return visit, wanted
    return run["session"] or "", replace(wanted, entities={**wanted.entities, "run": run["run"]})


def _run_order(run: str) -> tuple[int, str]:
    """Return what runs are sorted by: their number, and how it is spelled."""
    return (int(run) if run.isdecimal() else 0, run)


def _first_run(matching: list[tuple[Path, BidsName]]) -> list[tuple[Path, BidsName]]:
    """Return the images of the lowest run."""
    lowest = min((_run_order(name.entities.get("run", "0")) for _, name in matching), default=None)
    return [(path, name) for path, name in matching if _run_order(name.entities.get("run", "0")) == lowest]


def _means(matching: list[tuple[Path, BidsName]]) -> list[tuple[Path, BidsName]]:
    """Return images with the name of their mean (`runs`) in place of those that differ in their run alone.

    Two spellings of one run are left: nobody knows which of them is meant.
    """
    together: dict[Path, list[tuple[Path, BidsName]]] = {}
    for path, name in matching:
        run = name.entities.get("run")
        mean = path if run is None else path.with_name(path.name.replace(f"_run-{run}_", f"_run-{MEAN}_", 1))
        together.setdefault(mean, []).append((path, name))
    found: list[tuple[Path, BidsName]] = []
    for mean, own in together.items():
        orders = {_run_order(name.entities.get("run", ""))[0] for _, name in own}
        found += [(mean, own[0][1])] if len(own) == len(orders) > 1 else own
    return found


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
        resolved = [part.resolve() for part in image_files(path)]
    except ValueError as error:
        return f"{str(path)!r} is no path ({error})"
    except (OSError, RuntimeError):
        return f"{path} is a loop of links"
    return "" if all(part.is_relative_to(home) for part in resolved) else f"{path} leads out of {root}"


def suffixes(root: Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> list[str]:
    """Return the image suffixes that occur in a BIDS folder, for messages."""
    home = os.path.realpath(root)
    found = [path for folder in sorted(root.glob("sub-*")) for path in _searched(folder, home, [], endings)]
    names = [parse_name(path.name, endings) for path in found]
    return sorted({name.suffix for name in names if name})


def refuse_problems(root: Path, problems: list[str], endings: tuple[str, ...] = IMAGE_ENDINGS) -> None:
    """Raise one error that lists everybody without a usable image.

    Raises:
        CohortError: If there is any problem.
    """
    if problems:
        there = ", ".join(suffixes(root, endings)) or "none"
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


def _holdings(root: Path, home: str, participant: str, session: str, endings: tuple[str, ...]) -> _Holdings:
    barred: list[str] = []
    folder = root / f"sub-{participant}"
    start = _session_folder(folder, session) if session else folder
    found = _searched(start, home, barred, endings)
    images = [(path, name) for path in found if (name := parse_name(path.name, endings))]
    return _Holdings(participant, session, tuple(images), tuple(f"{line} {root}" for line in barred))


def _session_folder(folder: Path, session: str) -> Path:
    """Return the folder of a session by its name, or else the only one of the same number."""
    exact = folder / f"ses-{session}"
    if exact.is_dir() or not folder.is_dir():
        return exact
    alike = [path for path in folder.glob("ses-*") if path.is_dir() and same_value(label(path.name, "ses"), session)]
    return alike[0] if len(alike) == 1 else exact


def _searched(folder: Path, home: str, barred: list[str], endings: tuple[str, ...]) -> list[Path]:
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
            elif entry.name.endswith(endings):
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
        elif not (entity == "run" and value in (FIRST, ALL, MEAN)) and not same_value(own.get(entity, ""), str(value)):
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
    return {name: value for name, value in wanted.entities.items() if value not in (ABSENT, FIRST, ALL, MEAN)}


def _pattern(wanted: ImageInput, endings: tuple[str, ...]) -> str:
    parts = [f"{entity}-{value}" for entity, value in _asked(wanted).items()]
    parts += [f"desc-{wanted.desc}"] if wanted.desc else []
    matrices = ".tsv or .npy" if wanted.suffix == "relmat" else ".nii[.gz]"
    return "_".join(["sub-*", *parts, wanted.suffix]) + (matrices if endings == IMAGE_ENDINGS else " (GIFTI or CIFTI)")


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
