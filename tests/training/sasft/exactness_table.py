"""The table of docs/exactness.md: written from what the tests measured, and read again to see that it is whole."""

from pathlib import Path

from .exactness import CELLS, TERMS
from .ranks import ROWS as RANKS
from .rows import ROWS

TABLE = Path(__file__).parents[3] / "docs" / "exactness.md"
COLUMNS = tuple(f"{term}, {route}" for term in TERMS for route in ("callback", "trainer"))
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
START, END = "<!-- measured -->\n", "<!-- /measured -->\n"


def read_table() -> dict[tuple[str, str], str]:
    """(row, column) → cell."""
    lines = _split(TABLE.read_text(encoding="utf-8"))[1].splitlines()[2:]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row, column): cell for row, *cells in rows for column, cell in zip(COLUMNS, cells, strict=True)}


def write_table() -> None:
    """Replace the cells that were measured in this session; the others stay as they were."""
    before, _, after = _split(TABLE.read_text(encoding="utf-8"))
    cells = read_table() | CELLS
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row in (*ROWS, *(name for rows in RANKS.values() for name in rows), *BESIDES):
        lines.append(f"| {row} | {' | '.join(cells.get((row, column), 'not run') for column in COLUMNS)} |")
    TABLE.write_text("".join([before, START, *(f"{line}\n" for line in lines), END, after]), encoding="utf-8")


def _split(text: str) -> tuple[str, str, str]:
    before, rest = text.split(START)
    measured, after = rest.split(END)
    return before, measured, after
