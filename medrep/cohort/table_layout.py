"""Layout of a table as people have it: whose each row is, of which visit, and which columns are features.

Known layouts: ids in any column, covariates beside features or in a file of their own; FreeSurfer's ``aparcstats2table`` and
``asegstats2table``, a SUBJECTS_DIR; CAT12's and ENIGMA's tables of regions; UK Biobank's ``eid`` with fields ``25010-2.0``, whose
instances are visits. What is guessed is said, with what says otherwise. `medrep.cohort.tables` joins several.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from medrep.cohort.covariates import Covariate
from medrep.cohort.dictionary import meaning
from medrep.cohort.features import counting_columns
from medrep.cohort.files import CohortFiles
from medrep.cohort.inputs import FeaturesInput
from medrep.cohort.participants import check_ids, refuse_doubles
from medrep.cohort.table_files import Form, TableFile, is_table, read_table
from medrep.errors import CohortError, few, listed


@dataclass(frozen=True)
class Block:
    """Columns of a table file that are features of one visit.

    Attributes:
        session: The visit; empty where each row is of the visit that it names, or of none.
        columns: Positions in the file.
        names: Of the features.
    """

    session: str
    columns: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """How a table file is read.

    Attributes:
        id: Position of the column of ids.
        session: Position of the column of visits, or None.
        blocks: Columns that are.
    """

    id: int
    session: int | None
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Rows:
    """Rows of a table file: whose they are, and what is in them.

    Attributes:
        file: As read.
        layout: How.
        ids: Key columns of each row.
        notes: What was guessed.
    """

    file: TableFile
    layout: Layout
    ids: pd.DataFrame
    notes: tuple[str, ...]


_IDS = (
    *("participantid", "eid", "feid", "subjid", "subjectid", "subjectkey", "srcsubjectid", "subject", "subj", "sub"),
    *("participant", "ptid", "iid", "id", "names", "name"),
)
_SESSIONS = ("sessionid", "session", "ses", "visit", "viscode", "timepoint", "wave", "eventname")
_FREESURFER = re.compile(r"Measure:\w+|(?:[lr]h|aseg|wmparc|brainstem|thalamus)\..+")
_UKB = re.compile(r"(?:f\.)?(\d+)[-.](\d+)\.(\d+)")
_UKB_RAP = re.compile(r"p(\d+)_i(\d+)(?:_a(\d+))?")
_VISIT_IN_ID = re.compile(r"((?:sub-)?[A-Za-z0-9]+)_ses-([A-Za-z0-9]+)(?:\.long\..*)?")


def read_rows(path: Path, files: CohortFiles, section: FeaturesInput, declared: Sequence[Covariate]) -> Rows:
    """Read one file of features: whose each row is, and which columns are features of which visit."""
    if not is_table(path):
        raise CohortError(f"{path}: not a table; give .csv, .tsv, .txt, .xlsx or .parquet, or .gz of text")
    covariates = {meaning(one.column or one.name) for one in declared} | {meaning(section.group)} - {""}
    told: list[str] = []

    file = read_table(path, lambda header: _aside(header, files, section, covariates))
    if file.form.said:
        told.append(f"{path.name}: {file.form.said}")
    header = list(file.header)
    own = _id_column(path, header, file.texts, files, told)
    names = [header[k] for k in file.numbers]
    counters = counting_columns(tuple(names), file.values)
    told += [
        f"{path.name}: column {names[k] or 'without a name'} numbers the rows, is no feature, and is left out"
        for k in counters
    ]
    empty = np.flatnonzero(~np.isfinite(file.values).any(axis=0)).tolist()
    if empty:
        told.append(f"{path.name}: columns without any number are no features: {few([names[k] for k in empty])}")
    positions = [file.numbers[k] for k in range(len(names)) if k not in {*counters, *empty}]
    positions = _matching(path, positions, header, section)
    words = [header[k] for k in file.texts if k != own and header[k] and meaning(header[k]) not in covariates]
    words = [name for name in words if not _named(name, section.drop) and _plain(name) not in (*_IDS, *_SESSIONS)]
    if words:
        told.append(f"{path.name}: columns of words are no features: {few(words)}")
    twice = [name for name, count in Counter(header[k] for k in positions).items() if count > 1 or not name]
    if twice:
        named = [repr(name) for name in twice]
        raise CohortError(listed(f"{path}: columns without a name of their own", named, "name each column once"))
    ids = pd.DataFrame({"participant_id": _ids(file.texts[own].tolist())})
    several = files.session or ids["participant_id"].duplicated().any()
    at = _session_column(header, files, told, path) if several else None
    if at is None:
        ids, split = _visits_in_ids(ids)
        told += split
    else:
        ids["session_id"] = file.texts[at].str.strip().tolist()
    blocks = _blocks(positions, header, told, path)
    if any(block.session for block in blocks) and "session_id" in ids:
        raise CohortError(f"{path}: instances in the names of columns are visits, and so are rows; keep one of the two")
    return Rows(file, Layout(own, at, tuple(blocks)), ids, tuple(told))


def read_people(path: Path, files: CohortFiles) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read a table of people's covariates.

    Args:
        path: A table file.
        files: Which column has ids, and which visits, where they say so.

    Returns:
        Text cells with ``participant_id`` (and ``session_id``), and what was guessed.

    Raises:
        CohortError: Unreadable, without ids, or with rows of one person that disagree.
    """
    file = read_table(path, lambda header: None)
    header, notes = list(file.header), [f"{path.name}: {file.form.said}"] if file.form.said else []
    own = _id_column(path, header, file.texts, files, notes)
    names = {own: "participant_id"}
    repeated = file.texts[own].duplicated().any()
    at = _session_column(header, files, notes, path) if repeated or files.session else None
    if at is not None:
        names[at] = "session_id"
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise CohortError(listed(f"{path}: column names that occur twice", twice, "name each column once"))
    kept = [k for k, name in enumerate(header) if name or k in names]
    table = file.texts[kept].rename(columns={k: names.get(k, header[k]) for k in kept})
    table["participant_id"] = _ids(table["participant_id"].tolist())
    if at is None:
        table, split = _visits_in_ids(table)
        notes += split
    check_ids(path, table, [f"row {row + 1}" for row in table.index])
    key = [name for name in ("participant_id", "session_id") if name in table]
    unlike = table.drop_duplicates()
    clashing = unlike[unlike.duplicated(key, keep=False)]
    if not clashing.empty:
        several = [" ".join(map(str, row)) for row in clashing[key].drop_duplicates().to_numpy(object)]
        cure = "keep one row a person, or name the column of visits with --session"
        raise CohortError(listed(f"{path}: people with several rows that disagree", several, cure))
    refuse_doubles(path, unlike)
    return unlike.reset_index(drop=True), tuple(notes)


_STATS = {"lh.aparc.stats": "lh", "rh.aparc.stats": "rh", "aseg.stats": ""}
_MEASURES = {"ThickAvg": "thickness", "SurfArea": "area", "GrayVol": "volume"}


def is_subjects_dir(root: Path) -> bool:
    """Return whether a folder is FreeSurfer's SUBJECTS_DIR: people's folders with ``stats``, and no table of features."""
    return not (root / "features.tsv").is_file() and any(root.glob("*/stats/*.stats"))


def read_subjects(root: Path, section: FeaturesInput) -> Rows:
    """Read thickness, area and volume of regions from a SUBJECTS_DIR, named as aparcstats2table and asegstats2table do.

    Raises:
        CohortError: Everybody who lacks one of the files that others have, or whose file is not whole.
    """
    folders = sorted(path.parent for path in root.glob("*/stats") if not path.parent.name.startswith("fsaverage"))
    there = [name for name in _STATS if any((folder / "stats" / name).is_file() for folder in folders)]
    people: dict[str, dict[str, float]] = {}
    wrong: list[str] = []
    for folder in folders:
        found: dict[str, float] = {}
        for name in there:
            path = folder / "stats" / name
            try:
                found |= _stats(path.read_text(encoding="utf-8"), _STATS[name])
            except OSError as error:
                wrong.append(f"{folder.name}: {name} cannot be read ({error.strerror})")
            except (ValueError, IndexError) as error:
                wrong.append(f"{folder.name}: {name} is not whole ({error})")
        people[folder.name] = found
    if wrong:
        raise CohortError(listed(f"{root}: files of FreeSurfer", wrong, "run recon-all again, or pass --exclude"))
    names = list(dict.fromkeys(name for found in people.values() for name in found))
    values = np.array([[found.get(name, np.nan) for name in names] for found in people.values()])
    header = ("participant_id", *names)
    texts = pd.DataFrame({0: list(people)}, dtype=object)
    file = TableFile(root, Form("text"), header, texts, tuple(range(1, len(header))), values)
    chosen = [k for k in range(1, len(header)) if not _named(header[k], section.drop)]
    positions = _matching(root, chosen, list(header), section)
    ids, split = _visits_in_ids(pd.DataFrame({"participant_id": list(people)}))
    told = [f"{root.name}: FreeSurfer's {', '.join(there)} of {len(people)} folders, {len(positions)} features", *split]
    block = Block("", tuple(positions), tuple(header[k] for k in positions))
    return Rows(file, Layout(0, None, (block,)), ids, tuple(told))


def _stats(text: str, hemisphere: str) -> dict[str, float]:
    """Return the numbers of a ``.stats`` file by name."""
    found: dict[str, float] = {}
    columns: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("# ColHeaders"):
            columns = words[2:]
        elif line.startswith("# Measure"):
            _, short, _, value, *_ = [word.strip() for word in line.removeprefix("# Measure").split(",")]
            own = f"{hemisphere}_{short}_thickness" if short == "MeanThickness" else f"{hemisphere}_{short}_area"
            found[own if hemisphere and short in ("MeanThickness", "WhiteSurfArea") else short] = float(value)
        elif words and not line.startswith("#"):
            row = dict(zip(columns, words, strict=True))
            if hemisphere:
                found |= {
                    f"{hemisphere}_{row['StructName']}_{short}": float(row[long]) for long, short in _MEASURES.items()
                }
            else:
                found[row["StructName"]] = float(row["Volume_mm3"])
    if not columns:
        raise ValueError("no line ColHeaders")
    return found


def _aside(header: Sequence[str], files: CohortFiles, section: FeaturesInput, covariates: set[str]) -> list[int]:
    """Return columns that stay text: ids, visits, covariates, and what is dropped."""
    known = header.index(files.id) if files.id and files.id in header else _known_id(header)
    return [
        k
        for k, name in enumerate(header)
        if k == (known or 0)
        or _plain(name) in (*_IDS, *_SESSIONS)
        or meaning(name) in covariates
        or _named(name, section.drop)
        or (name and name == files.session)
    ]


def _known_id(header: Sequence[str]) -> int | None:
    if header and _FREESURFER.fullmatch(header[0]):
        return 0
    plain = [_plain(name) for name in header]
    return next((plain.index(name) for name in _IDS if name in plain), None)


def _id_column(path: Path, header: list[str], texts: pd.DataFrame, files: CohortFiles, notes: list[str]) -> int:
    """Return the column of ids: the one that is named, one of a known name, or the first if nobody is in it twice."""
    if files.id and files.id in header:
        return header.index(files.id)
    known = _known_id(header)
    if known is None and 0 in texts:
        cells = texts[0].str.strip()
        if not cells.duplicated().any() and (cells != "").all():
            known = 0
    if known is None:
        asked = f"no column {files.id!r}" if files.id else "no column of ids"
        raise CohortError(f"{path}: {asked} among {few([repr(name) for name in header], 8)}; name it with --id COLUMN")
    if header[known] != "participant_id":
        notes.append(f"{path.name}: column {header[known] or 1!r} is read as the ids (--id names another)")
    return known


def _session_column(header: list[str], files: CohortFiles, notes: list[str], path: Path) -> int | None:
    if files.session:
        return header.index(files.session) if files.session in header else None
    plain = [_plain(name) for name in header]
    found = next((plain.index(name) for name in _SESSIONS if name in plain), None)
    if found is not None and header[found] != "session_id":
        notes.append(f"{path.name}: column {header[found]!r} is read as the visits (--session names another)")
    return found


def _ids(cells: Sequence[str]) -> list[str]:
    """Return ids without what programs add: a folder's slash, and ``.0`` where a spreadsheet took them for numbers."""
    bare = [str(cell).strip().rstrip("/") for cell in cells]
    if all(re.fullmatch(r"\d+\.0", one) for one in bare):
        return [one[:-2] for one in bare]
    return bare


def _visits_in_ids(ids: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Part ``sub-01_ses-2`` into a person and a visit, where all ids are like that."""
    matches = [_VISIT_IN_ID.fullmatch(one) for one in ids["participant_id"]]
    if not matches or any(match is None for match in matches):
        return ids, []
    pairs = [match.groups() for match in matches if match is not None]
    table = ids.assign(participant_id=[who for who, _ in pairs])
    table.insert(1, "session_id", [visit for _, visit in pairs])
    return table, [f"ids name visits, too: {ids['participant_id'].iloc[0]!r} is visit {pairs[0][1]} of {pairs[0][0]}"]


def matching_names(names: Sequence[str], section: FeaturesInput, where: str) -> tuple[str, ...]:
    """Return the features that a section asks for, of the names of columns of numbers.

    Raises:
        CohortError: None is.
    """
    chosen = tuple(name for name in names if not _named(name, section.drop))
    if not section.features:
        return chosen
    found = tuple(name for name in chosen if _named(name, section.features))
    if not found:
        raise CohortError(f"{where}: no column of numbers is called {few(section.features)}; there are {few(names, 8)}")
    return found


def _matching(path: Path, positions: list[int], header: Sequence[str], section: FeaturesInput) -> list[int]:
    """Return the columns that are asked for."""
    if not positions:
        raise CohortError(f"{path}: no column of numbers beside ids and covariates; there are {few(header, 8)}")
    wanted = set(matching_names([header[k] for k in positions], section, str(path)))
    return [k for k in positions if header[k] in wanted]


def field_of(name: str) -> re.Match[str] | None:
    """Return number, instance and array of a field of UK Biobank; None of other columns."""
    return _UKB.fullmatch(name) or _UKB_RAP.fullmatch(name)


def _blocks(positions: list[int], header: list[str], notes: list[str], path: Path) -> list[Block]:
    """Return the columns a visit: of UK Biobank an instance, else all of them at once."""
    fields = {k: field_of(header[k]) for k in positions}
    if not positions or any(match is None for match in fields.values()):
        return [Block("", tuple(positions), tuple(header[k] for k in positions))]
    found: dict[str, list[tuple[int, str]]] = {}
    for k, match in fields.items():
        number, instance, array = match.groups() if match is not None else ("", "", "")
        found.setdefault(instance, []).append((k, number if int(array or 0) == 0 else f"{number}.{array}"))
    names = sorted({name for own in found.values() for _, name in own})
    several = (
        f"instances {', '.join(found)} are visits" if len(found) > 1 else f"instance {next(iter(found))} is the visit"
    )
    notes.append(f"{path.name}: fields of UK Biobank; {several} (--session-label chooses), {len(names)} features")
    blocks = []
    for instance, own in found.items():
        of_names = {name: k for k, name in own}
        lacking = [name for name in names if name not in of_names]
        if lacking:
            raise CohortError(
                f"{path}: instance {instance} lacks the fields {few(lacking)}, which others have; choose columns with --features"
            )
        blocks.append(Block(instance, tuple(of_names[name] for name in names), tuple(names)))
    return blocks


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
