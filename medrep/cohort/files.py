"""Where a cohort lies: a folder, tables of several forms, and which of their columns and visits are meant."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True)
class CohortFiles:
    """Where a cohort lies, and what is said about its files beside the configuration.

    Attributes:
        root: A folder, a datalist, or a table file.
        covariates: A table of covariates; None where they stand in participants.tsv, or beside the features.
        more: Further table files of the same people.
        id: Column of ids, in those of the tables that have it; empty: found by its name.
        session: Column of visits, likewise.
        visits: Which visits are read, with or without ``ses-``; all if empty.
        changes: Keys of the section ``input`` -> values that hold for these files.
    """

    root: Path
    covariates: Path | None = None
    more: tuple[Path, ...] = ()
    id: str = ""
    session: str = ""
    visits: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> tuple[Path, ...]:
        """The files of features."""
        return (self.root, *self.more)

    @property
    def missing(self) -> list[str]:
        """The table files that are not there."""
        wanted = [*self.more, *([] if self.covariates is None else [self.covariates])]
        return [str(path) for path in wanted if not path.is_file()]

    def to_json(self) -> dict[str, Any]:
        """Return what is said beside the root, paths absolute; empty where nothing is."""
        told = asdict(self) | {
            "covariates": None if self.covariates is None else str(self.covariates.resolve()),
            "more": [str(path.resolve()) for path in self.more],
            "visits": list(self.visits),
        }
        return {name: value for name, value in told.items() if value and name != "root"}

    @classmethod
    def from_json(cls, root: Path, content: Mapping[str, Any]) -> "CohortFiles":
        """Return the files of `to_json`."""
        covariates, more = content.get("covariates"), tuple(map(Path, content.get("more", ())))
        others = {name: content[name] for name in ("id", "session") if name in content}
        changes = {
            name: tuple(own) if isinstance(own, list) else own for name, own in content.get("changes", {}).items()
        }
        visits = tuple(content.get("visits", ()))
        return cls(root, Path(covariates) if covariates else None, more, visits=visits, changes=changes, **others)


Place: TypeAlias = Path | CohortFiles
"""Where a cohort lies."""


def cohort_files(place: Place) -> CohortFiles:
    """Return where a cohort lies, with nothing said beside a path."""
    return place if isinstance(place, CohortFiles) else CohortFiles(place)
