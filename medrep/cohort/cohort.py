"""Cohort: the participants table joined to its files or features."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from medrep.cohort.bids import find_images, outside_problems, refuse_outside, refuse_problems
from medrep.cohort.datalist import read_datalist
from medrep.cohort.earlier import Earlier, earlier_work
from medrep.cohort.features import FeatureTable, claimed, match_keys, read_features
from medrep.cohort.inputs import Input
from medrep.cohort.participants import KEY_COLUMNS, keys, label, labels, read_participants
from medrep.cohort.sessions import with_sessions
from medrep.errors import CohortError, listed

# +5, -5 mm, -, +/- and +ve are data; =1+1, @SUM(A1) and -1+cmd|' /C calc'!A0 are not. Quotes are no help: programs take them off.
_FORMULA = re.compile(r'[\s"]*(?:[=@]\s*\S|[+\-].*[(!|])')
_STARTS = frozenset('=@+- "')  # looked at first: most cells are numbers


@dataclass(frozen=True)
class Cohort:
    """People, their table, and where their data are.

    Attributes:
        root: The folder everything lies in.
        table: Text cells, one row a person or session; index: key.
        units: Column -> unit from participants.json.
        files: One image or label map a row (``volume``, ``shape``), else None; index: key. None for a person in ``problems``.
        features: The matched feature table (``features``, ``connectivity``), else None.
        notes: What was tidied while reading.
        input: What was read, with the fingerprint of the atlas filled in (``connectivity``).
        problems: Why there is no usable file, by key; empty unless the cohort was read with ``tolerant``.
        levels: Column -> level -> what it means, from participants.json.
        earlier: What medrep has done to the data already.
    """

    root: Path
    table: pd.DataFrame
    units: dict[str, str]
    files: "pd.Series | None"
    features: FeatureTable | None
    notes: tuple[str, ...]
    input: Input
    problems: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    earlier: tuple[Earlier, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def select(self, wanted: pd.Index) -> "Cohort":
        """Return the cohort of the wanted keys, in that order."""
        return replace(
            self,
            table=self.table.loc[wanted],
            files=None if self.files is None else self.files.loc[wanted],
            features=None if self.features is None else self.features.rows(wanted),
            problems={key: problem for key, problem in self.problems.items() if key in wanted},
        )


def read_cohort(
    root: Path, wanted: Input, *, only: Sequence[str] = (), exclude: Sequence[str] = (), tolerant: bool = False
) -> Cohort:
    """Read a cohort: a BIDS folder, a folder with features.tsv, or a MONAI datalist JSON.

    Args:
        root: The folder, or the JSON file.
        wanted: Which images or table.
        only: Participant ids (with or without ``sub-``) to read; all if empty.
        exclude: Participant ids to leave out.
        tolerant: Whether people without exactly one usable file are kept, with their problem, as long as somebody has one.

    Raises:
        CohortError: What is missing or contradictory; everybody it concerns is listed.
    """
    try:
        is_file, is_folder = root.is_file(), root.is_dir()
    except (OSError, ValueError) as error:
        raise CohortError(f"{root}: cannot be opened ({error}); COHORT is a folder or a datalist JSON") from None
    if is_file and root.suffix == ".json":
        return _datalist_cohort(root, wanted, only, exclude, tolerant)
    if not is_folder:
        raise CohortError(f"{root}: no such folder; COHORT is a folder with participants.tsv, or a datalist JSON")
    people = read_participants(root / "participants.tsv")
    table = _choose(people.table, only, exclude)
    features, feature_ids = None, None
    if wanted.kind == "features":
        everybody = [str(who) for who in people.table["participant_id"].tolist()]
        features, feature_ids = claimed(read_features(root / "features.tsv"), everybody)
    table, session_notes = with_sessions(root, table, feature_ids)
    cohort = Cohort(
        root, table, people.units, None, None, (*people.notes, *session_notes), wanted, levels=people.levels
    )
    cohort = replace(cohort, notes=(*cohort.notes, *_formulas(table)))
    if features is not None:
        features = match_keys(features, table.index)
        notes = (*cohort.notes, *features.notes, *_formulas(pd.DataFrame(columns=list(features.names))))
        return replace(cohort, features=features, notes=notes, earlier=earlier_work(root))
    sessions = table.get("session_id", pd.Series("", index=table.index))
    pairs = [
        (str(who), str(visit) if label(str(visit), "ses") else "")
        for who, visit in zip(table["participant_id"], sessions, strict=True)
    ]
    found, problems = find_images(root, pairs, wanted)
    names = [str(key) for key in table.index]
    tolerant = tolerant and wanted.kind in {"volume", "shape"} and bool(found)
    if not tolerant:
        refuse_problems(root, [f"{' '.join(pairs[k]).strip()}: {problem}" for k, problem in problems.items()])
        refuse_outside(root, [(names[position], path) for position, path in found.items()])
    outside = outside_problems(root, found) if tolerant else {}
    files = [None if k in outside else found.get(k) for k in range(len(table))]
    known = {names[k]: problem for k, problem in sorted((problems | outside).items())}
    return replace(_with_images(cohort, pd.Series(files, index=table.index, dtype=object)), problems=known)


def _with_images(cohort: Cohort, files: pd.Series) -> Cohort:
    cohort = replace(cohort, earlier=earlier_work(cohort.root, [path for path in files if path is not None]))
    if cohort.input.kind in {"volume", "shape"}:
        return replace(cohort, files=files)
    from medrep.cohort.connectivity import read_connectivity  # nilearn takes seconds to import and only this needs it

    ids = cohort.table[[column for column in KEY_COLUMNS if column in cohort.table]]
    features, done, notes = read_connectivity(cohort.root, files, ids, cohort.input)
    return replace(cohort, features=features, input=done, notes=(*cohort.notes, *notes))


def _datalist_cohort(path: Path, wanted: Input, only: Sequence[str], exclude: Sequence[str], tolerant: bool) -> Cohort:
    if wanted.kind == "features":
        raise CohortError(
            f"{path}: a datalist names images; set input.kind to volume or shape, or give a folder with features.tsv"
        )
    table, images = read_datalist(path, tolerant=tolerant)
    table.index = pd.Index(keys(table), name="key")
    outside = outside_problems(path.parent, dict(enumerate(images)))
    names = [str(key) for key in table.index]
    files = pd.Series(
        [None if k in outside else image for k, image in enumerate(images)], index=table.index, dtype=object
    )
    chosen = _choose(table, only, exclude)
    notes = tuple(_formulas(chosen))
    cohort = _with_images(Cohort(path.parent, chosen, {}, None, None, notes, wanted), files.loc[chosen.index])
    kept = set(chosen.index)
    return replace(cohort, problems={names[k]: problem for k, problem in outside.items() if names[k] in kept})


def _formulas(table: pd.DataFrame) -> list[str]:
    """Return a note about names and cells that a spreadsheet program would run as formulas; they stay as they are."""
    keys = table.index.tolist()
    found = [f"column {str(name)[:40]!r}" for name in table if str(name)[:1] in _STARTS and _FORMULA.match(str(name))]
    for name in table:
        found += [
            f"{keys[k]} {name} {cell[:40]!r}"
            for k, cell in enumerate(table[name].tolist())
            if cell[:1] in _STARTS and _FORMULA.match(cell)
        ]
    if not found:
        return []
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        f"texts that a spreadsheet program runs as formulas: {', '.join(found[:3])}{more}; they are kept as they are, "
        "also in what is written: import such tables as text"
    ]


def _choose(table: pd.DataFrame, only: Sequence[str], exclude: Sequence[str]) -> pd.DataFrame:
    if not only and not exclude:
        return table
    bare = pd.Series(labels(table["participant_id"].tolist(), "sub"), index=table.index)
    asked = {label(who, "sub") for who in only}
    left_out = {label(who, "sub") for who in exclude}
    strangers = sorted((asked | left_out) - set(bare))
    if strangers:
        raise CohortError(listed("participants that the table does not have", strangers, "check the ids"))
    kept = table[(bare.isin(asked) if asked else True) & ~bare.isin(left_out)]
    if kept.empty:
        raise CohortError("nobody is left after --participant-label and --exclude")
    return kept
