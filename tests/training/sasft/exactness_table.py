"""The tables of docs/exactness.md: written from what the tests measured, and read again to see that they are whole.

A table lies between `<!-- measured NAME -->` and `<!-- /measured NAME -->`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .exactness import CELLS, TERMS
from .plain import PLAIN_ROWS
from .ranks import ROWS as RANKS
from .rows import ROWS

FILE = Path(__file__).parents[3] / "docs" / "exactness.md"
BESIDES = (
    "bf16 autocast",
    "bf16 pure",
    "weight 0, padded: weights after 3 steps",
    "weight 0, packed: weights after 3 steps",
    "weight 0, wrapped: weights after 3 steps",
    "weight auto, accumulation of 4: weights of 6 steps",
    "weight auto, DDP: weights of 6 steps",
    "no penalised token: weights after 3 steps",
    "evaluation loop",
)
"""Rows that other tests measure, each in its own way."""
PLAIN_BESIDES = ("weight 0: weights after 3 steps",)


@dataclass(frozen=True)
class Table:
    """Its rows in order, and the routes that have two columns each, one for each term."""

    rows: Sequence[str]
    routes: Sequence[str]

    @property
    def columns(self) -> list[str]:
        return [f"{term}, {route}" for term in TERMS for route in self.routes]


TABLES: Mapping[str, Table] = {
    "TRL": Table([*ROWS, *(name for rows in RANKS.values() for name in rows), *BESIDES], ("callback", "trainer")),
    "Trainer": Table([*PLAIN_ROWS, *PLAIN_BESIDES], ("Trainer",)),
}


def read_table(name: str) -> dict[tuple[str, str], str]:
    """(row, column) → cell."""
    lines = _split(FILE.read_text(encoding="utf-8"), name)[1].splitlines()[2:]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    columns = TABLES[name].columns
    return {(row, column): cell for row, *cells in rows for column, cell in zip(columns, cells, strict=True)}


def write_tables() -> None:
    """Replace the cells that were measured in this session; the others stay as they were."""
    text = FILE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        before, _, after = _split(text, name)
        cells = read_table(name) | CELLS
        lines = [f"| | {' | '.join(table.columns)} |", "|---" * (1 + len(table.columns)) + "|"]
        for row in table.rows:
            lines.append(f"| {row} | {' | '.join(cells.get((row, column), 'not run') for column in table.columns)} |")
        text = "".join([before, *(f"{line}\n" for line in lines), after])
    FILE.write_text(text, encoding="utf-8")


def _split(text: str, name: str) -> tuple[str, str, str]:
    """What stands before the table, the table, and what stands after it; the marks go with their neighbours."""
    start, end = f"<!-- measured {name} -->\n", f"<!-- /measured {name} -->\n"
    before, rest = text.split(start)
    measured, after = rest.split(end)
    return before + start, measured, end + after
