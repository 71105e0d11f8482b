"""What is shown of a model: a line of text, and in notebooks tables that take their colours from the page, light or dark."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from medrep.cohort.covariates import CovariateSchema
from medrep.cohort.description import describe_covariates
from medrep.cohort.values import shown

if TYPE_CHECKING:
    from medrep.models.base import Columns

_TABLE = "border-collapse:collapse;color:inherit;background:transparent;margin:0.25em 0"
_CELL = "text-align:left;padding:0.1em 0.8em 0.1em 0;border:0;border-bottom:1px solid #8886;background:transparent"


class NotebookView:
    """Gives a fitted model the line that Python shows and the table that a notebook shows."""

    kind: str
    schema: CovariateSchema
    columns: "Columns"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.schema.names)}; {self.columns.count} columns)"

    def _repr_html_(self) -> str:
        names, grid = self.columns.names, self.columns.grid
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        where = some if names else f"voxels of a grid {' x '.join(map(str, grid.shape))}" if grid else ""
        table = describe_covariates(self.schema)
        return (
            f"<div><strong>medrep {escape(self.kind)}</strong>, {self.columns.count} columns"
            f"{f' ({escape(where)})' if where else ''}"
            f"{html_table(table.columns, table.itertuples(index=False))}"
            f"<div>What it assumes, and its limitations: <code>help({escape(type(self).__module__)})</code></div></div>"
        )


def html_table(headings: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; everything is escaped, numbers have four digits."""
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(str(name))}</th>' for name in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(shown(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
