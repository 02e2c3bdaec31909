"""The frameworks' tables in docs/exactness.md: one block each, written and read by that framework's tests alone."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "exactness.md"
COLUMNS = ("features", "tokens", "weight 0", "the framework's own gradient")
BOUND = 1e-5

CELLS: dict[tuple[str, str], str] = {}
"""What was measured in this session: (row, column) → cell."""


def record(row: str, cells: dict[str, float | str]) -> None:
    """Put what was measured of one way to train into the table."""
    CELLS.update({(row, name): cell if isinstance(cell, str) else f"{cell:.0e}" for name, cell in cells.items()})


def record_refusal(row: str, words: str) -> None:
    CELLS.update({(row, column): f"refused: {words}" for column in COLUMNS})


def check(cells: dict[str, float | str]) -> None:
    """Assert that what was measured is within bounds."""
    assert cells["weight 0"] == "bit-identical", cells
    assert all(cell <= BOUND for cell in cells.values() if isinstance(cell, float)), cells


def read_table(framework: str) -> dict[tuple[str, str], str]:
    """(row, column) → cell, of one framework's block."""
    lines = _split(framework)[1].splitlines()[2:]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row, column): cell for row, *cells in rows for column, cell in zip(COLUMNS, cells, strict=True)}


def write_table(framework: str, rows: list[str]) -> None:
    """Replace the cells that were measured in this session; the others stay as they were."""
    before, _, after = _split(framework)
    cells = read_table(framework) | CELLS
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for row in rows:
        lines.append(f"| {row} | {' | '.join(cells.get((row, column), 'not run') for column in COLUMNS)} |")
    PAGE.write_text("".join([before, *(f"{line}\n" for line in lines), after]), encoding="utf-8")


def _split(framework: str) -> tuple[str, str, str]:
    start, end = f"<!-- measured {framework} -->\n", f"<!-- /measured {framework} -->\n"
    before, rest = PAGE.read_text(encoding="utf-8").split(start)
    measured, after = rest.split(end)
    return before + start, measured, end + after
