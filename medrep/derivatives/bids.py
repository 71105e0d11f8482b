"""Files that every derivative holds: participants.tsv, latents.tsv, dataset_description.json; numbers as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from medrep import __version__
from medrep._files import atomic_file, write_json, write_text
from medrep.cohort.bids import POINT_ENDINGS, SURFACE_ENDINGS, form_of
from medrep.erasure import Certificate
from medrep.errors import mask
from medrep.models import Adaptation

DIGITS = 10
"""Far more than any measurement has, and two thirds of the bytes of all that a double holds."""

MISSING = "n/a"
_LINES_AT_ONCE = 256


def line(values: Float[np.ndarray, " columns"], before: Float[np.ndarray, " columns"] | None = None) -> str:
    """Return a row as cells with tabs between them.

    Args:
        values: The row; NaN is ``n/a``.
        before: The row as it was: cells that are the same come back to the last digit.
    """
    same = None if before is None else values == before
    if (same is None or not same.any()) and not np.isnan(values).any():
        return _pattern(len(values)) % tuple(values.tolist())
    kept = np.zeros(len(values), bool) if same is None else same
    return "\t".join(
        MISSING if cell != cell else repr(cell) if stays else f"{cell:.{DIGITS}g}"
        for cell, stays in zip(values.tolist(), kept.tolist(), strict=True)
    )


def rows_text(
    values: Float[np.ndarray, "people columns"], before: Float[np.ndarray, "people columns"] | None = None
) -> bytes:
    """Return rows as `line` does, each ended, as they are written."""
    same = np.zeros(len(values), bool) if before is None else (values == before).any(axis=1)
    if not same.any() and not np.isnan(values).any():
        pattern = _pattern(values.shape[1]) + "\n"
        return "".join([pattern % tuple(row) for row in values.tolist()]).encode()
    rows = [line(row, None if before is None else before[k]) for k, row in enumerate(values)]
    return "".join(f"{row}\n" for row in rows).encode()


def exact_line(values: Float[np.ndarray, " columns"]) -> str:
    """Return a row with all digits that tell its numbers apart."""
    return "\t".join(MISSING if cell != cell else repr(cell) for cell in values.tolist())


def parsed(text: str) -> Float[np.ndarray, " columns"]:
    """Return the numbers of a line."""
    return np.array([float("nan") if cell == MISSING else float(cell) for cell in text.split("\t")])


@lru_cache(maxsize=8)
def _pattern(columns: int) -> str:
    return "\t".join([f"%.{DIGITS}g"] * columns)


BIDS_VERSION = "1.10.0"

OUTSIDE = "OutsideTraining"
"""Key of a sidecar that says how far a person lies outside the range of training; absent where nobody does."""

_Place = TypeVar("_Place", bound=PurePath)

MeshFormat = Literal["gifti", "stl", "ply"]
"""What the surface of an organ is written as."""


@dataclass(frozen=True)
class Removal:
    """Description of a removal, as it stands in every sidecar.

    Attributes:
        model: The model folder or registered name, as the user gave it.
        kind: Key of ``MODELS``.
        removed: Covariates removed.
        kept: Covariates left in.
        references: Removed covariate -> the value everybody was moved to.
        adapted: Batch levels that training did not have and how they were estimated.
        purpose: ``removal``, or ``counterfactual``.
        near: For a counterfactual: how many training people had such covariates; None where the model does not say.
        label_free: Whether nobody's covariates were looked at.
        certificates: What the model's guard leaves of each removed covariate in the latents.
        left: What the model leaves as it is (`left_alone`).
        not_removed: What the model does not remove, in words; empty where nothing is known of the kind.
        own: Whether each person was moved along their own trajectory, by what ``references`` says.
        with_pose: Whether organs were moved as a whole, too.
    """

    model: str
    kind: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    references: dict[str, str | float]
    adapted: tuple[Adaptation, ...]
    purpose: Literal["removal", "counterfactual"] = "removal"
    near: int | None = None
    label_free: bool = False
    certificates: tuple[Certificate, ...] = ()
    left: dict[str, Any] = field(default_factory=dict)
    not_removed: str = ""
    own: bool = False
    with_pose: bool = False

    @property
    def desc(self) -> str:
        """BIDS ``desc`` of what is written."""
        return "residualized" if self.purpose == "removal" else "counterfactual"

    def to_json(self) -> dict[str, Any]:
        """Return the sidecar's content."""
        kept = ", ".join(self.kept) or "nothing else"
        if self.purpose == "counterfactual":
            values = ", ".join(f"{name}={value}" for name, value in self.references.items())
            values += " along each person's own trajectory" if self.own else ""
            return {
                "Description": f"What a model expects with {values}; {kept} as they are. A model's answer, not a causal fact.",
                **self._shared(),
                "Covariates": self.references,
                "TrainingPeopleNear": self.near,
            }
        return {
            "Description": f"Effects of {', '.join(self.removed)} removed; {kept} kept.",
            **self._shared(),
            "Removed": list(self.removed),
            "References": self.references,
            "LabelFree": self.label_free,
            "Certificates": [asdict(certificate) for certificate in self.certificates],
            **({"NotRemoved": self.not_removed} if self.not_removed else {}),
        }

    def _shared(self) -> dict[str, Any]:
        return {
            "Model": self.model,
            "ModelKind": self.kind,
            "MedrepVersion": __version__,
            "Kept": list(self.kept),
            "AdaptedLevels": [asdict(adaptation) for adaptation in self.adapted],
            **self.left,
            **({"WithPose": True} if self.with_pose else {}),
        }


@dataclass(frozen=True)
class Destination:
    """Where people without some effects are written.

    Attributes:
        folder: Where to; the cohort's own layout is kept below it.
        root: The cohort's folder.
        done: For the sidecars; says how files are named.
        mesh: What meshes are written as.
        names: Columns of the cohort's table, in its order; none for files.
        matrix: Whether edges between regions are written as a matrix a person, too.
    """

    folder: Path
    root: Path
    done: Removal
    mesh: MeshFormat = "gifti"
    names: tuple[str, ...] = ()
    matrix: bool = False


@dataclass(frozen=True)
class Failure:
    """One person who could not be delivered."""

    participant: str
    file: str
    stage: str
    error: str
    attempts: int = 1


def write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Write a tab-separated table atomically; numbers with all the digits that tell them apart, ``n/a`` where missing."""
    write_text(path, _plain_table(table) or table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))


def _plain_table(table: pd.DataFrame) -> str:
    """Return a table of text in which nothing has to be quoted, in a fraction of the time; nothing of other tables."""
    rows, columns = table.shape
    if columns < 2 or not all(isinstance(dtype, pd.StringDtype) for dtype in table.dtypes):
        return ""
    cells = [column.fillna(MISSING).to_numpy(object).tolist() for _, column in table.items()]
    text = "\n".join(map("\t".join, [tuple(map(str, table.columns)), *zip(*cells, strict=True)])) + "\n"
    ends = text.count("\n"), text.count("\t")
    plain = ends == (rows + 1, (columns - 1) * (rows + 1)) and '"' not in text and "\r" not in text
    return text if plain else ""


def write_matrix(
    path: Path, ids: pd.DataFrame, names: Sequence[str], rows: Iterable[Float[np.ndarray, " columns"]]
) -> None:
    """Write one row a person with all digits that tell its numbers apart; see `write_lines`."""
    write_lines(path, ids, names, map(exact_line, rows))


def write_lines(
    path: Path, ids: pd.DataFrame, names: Sequence[str], lines: Iterable[str], header: Sequence[str] = ()
) -> None:
    """Write one row a person, a row at a time, so that wide tables stay cheap.

    Args:
        path: Where to.
        ids: Key columns.
        names: Of the numbers.
        lines: The numbers as text (`medrep.derivatives.bids`).
        header: Names of all columns in their order; by default the ids, then the numbers.
    """
    columns = [*ids.columns, *names]
    place = {str(name): position for position, name in enumerate(columns)}
    order = [place[name] if name in place else place[name.casefold()] for name in header] or list(range(len(columns)))
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(("\t".join(header or columns) + "\n").encode())
        whose = zip(*(map(str, ids[column].tolist()) for column in ids), strict=True)
        whole = ("\t".join((*who, line)) + "\n" for who, line in zip(whose, lines, strict=True))
        if order != list(range(len(columns))):
            split = (line.removesuffix("\n").split("\t") for line in whole)
            whole = ("\t".join([cells[position] for position in order]) + "\n" for cells in split)
        while block := "".join(islice(whole, _LINES_AT_ONCE)):
            file.write(block.encode())


def write_latents(path: Path, ids: pd.DataFrame, latents: Iterable[str], roles: Sequence[str] = ()) -> None:
    """Write one row a person: the ids, then z1, z2, ..., the last latents by the names that say their roles."""
    lines = iter(latents)
    first = next(lines)
    write_lines(path, ids, latent_names(first.count("\t") + 1, roles), chain([first], lines))


def latent_names(count: int, roles: Sequence[str]) -> list[str]:
    """Return what latents are called; ``roles`` are the names of the last ones (`Model.latent_roles`)."""
    return [*(f"z{k + 1}" for k in range(count - len(roles))), *roles]


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write the people who could not be delivered; no file where there are none."""
    if failures:
        rows = [(f.participant, f.file, f.stage, " ".join(mask(f.error).split()), f.attempts) for f in failures]
        write_tsv(path, pd.DataFrame(rows, columns=["participant_id", "file", "stage", "error", "attempts"]))
    else:
        path.unlink(missing_ok=True)


def write_description(folder: Path, name: str, sources: Sequence[str], content: Mapping[str, Any]) -> None:
    """Write dataset_description.json; written last, it says that the folder is complete."""
    description = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medrep", "Version": __version__, "Description": content.get("Description", "")}],
        "SourceDatasets": [{"URL": source} for source in sources],
    }
    write_json(folder / "dataset_description.json", description)


_KEPT_ENDINGS = (*SURFACE_ENDINGS, *POINT_ENDINGS)


def described_name(relative: str, desc: str) -> PurePosixPath:
    """Return the path of a derivative: the same place, ``desc-...`` before the suffix; .nii.gz, or as surfaces and points end."""
    path = PurePosixPath(relative)
    own = form_of(path.name, _KEPT_ENDINGS)
    stem = path.name.removesuffix(own or ".gz")
    for ending in () if own else (".nii", ".mgz", ".mgh", ".hdr", ".img"):
        stem = stem.removesuffix(ending)
    *entities, suffix = stem.split("_")
    kept = [entity for entity in entities if not entity.startswith("desc-")]
    return path.with_name("_".join([*kept, f"desc-{desc}", suffix]) + (own or ".nii.gz"))


def of_structure(image: _Place, structure: str) -> _Place:
    """Return the path of what is written of one structure: ``label-...`` before ``desc-...``; the image's own without a name."""
    if not structure:
        return image
    entities = [entity for entity in image.name.split("_") if not entity.startswith("label-")]
    before = next((place for place, entity in enumerate(entities) if entity.startswith("desc-")), len(entities) - 1)
    return image.with_name("_".join([*entities[:before], f"label-{structure}", *entities[before:]]))


def sidecar(image: _Place) -> _Place:
    """Return the JSON beside an image."""
    own = form_of(image.name, (*_KEPT_ENDINGS, ".tsv"))
    stem = image.name.removesuffix(own) if own else image.name.removesuffix(".gz").removesuffix(".nii")
    return image.with_name(f"{stem}.json")
