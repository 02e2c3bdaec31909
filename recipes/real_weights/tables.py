"""Write the result tables of README.md and of this recipe from the CSV, so that each number is a row of it.

python recipes/real_weights/tables.py          # say which tables are out of date
python recipes/real_weights/tables.py --write  # write them anew
A table stands between the lines `<!-- table NAME -->` and `<!-- end of table -->`. tables.yaml says what it holds.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "real_weights.csv"
FILES = (ROOT / "README.md", HERE / "README.md", ROOT / "docs" / "sasft.md")
MARKED = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)
MINUS = "−"

Rows = Mapping[tuple[str, str, str, str, str], dict[str, str]]
"""Rows by recipe, arm, seed, metric and setting."""


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command; returns the files whose tables are, or were, out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the tables that are out of date")
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV of the results (default: %(default)s)")
    parser.add_argument("--files", type=Path, nargs="+", default=list(FILES), help="files that hold tables")
    args = parser.parse_args(arguments)
    rows = read_rows(args.results)
    described = yaml.safe_load((HERE / "tables.yaml").read_text(encoding="utf-8"))
    changed = []
    for path in args.files:
        text = path.read_text(encoding="utf-8")
        new = MARKED.sub(lambda match: marked(match.group(1), described, rows), text)
        if new != text:
            changed.append(path)
            print(f"{path}: {'written' if args.write else 'out of date; run with --write'}.")
            if args.write:
                path.write_text(new, encoding="utf-8")
    return changed


def read_rows(path: Path) -> Rows:
    """Raises: ValueError for a row without a commit, or for two rows that say the same."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    without = [row for row in rows if not row["commit"]]
    if without:
        raise ValueError(f"{len(without)} rows of {path} have no commit, such as {without[0]}.")
    found: dict[tuple[str, str, str, str, str], dict[str, str]] = {}
    for row in rows:
        key = (row["recipe"], row["arm"], row["seed"], row["metric"], row["setting"])
        if key in found:
            raise ValueError(f"{path} has two rows of {key}; keep one.")
        found[key] = row
    return found


def marked(name: str, described: Mapping[str, Any], rows: Rows) -> str:
    """The table between its marks. Raises: ValueError for a name that tables.yaml does not describe."""
    if name not in described:
        raise ValueError(f"tables.yaml describes no table {name!r}; it has {', '.join(described)}.")
    return f"<!-- table {name} -->\n" + "\n".join(lines_of(described[name], rows)) + "\n<!-- end of table -->"


def lines_of(table: Mapping[str, Any], rows: Rows) -> list[str]:
    """The Markdown of a table: a line for each arm, a column for each metric.

    An arm that was measured with several seeds is shown with all of them together; the column `seeds` names them. With
    `each_seed`, it has a line for each seed instead; with `seed`, one line for this seed.

    Raises: ValueError for an arm without a row.
    """
    columns = table["columns"]
    lines = ["| " + " | ".join([table.get("first", "arm"), *(column["title"] for column in columns), "seeds"]) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    wanted = {(column["metric"], str(column["setting"])) for column in columns}
    for arm, shown in table["arms"].items():
        recipe = table["recipe"]
        keys = [key for key in rows if key[:2] == (recipe, arm)]
        seeds = {key[2] for key in keys if key[3:] in wanted} or {key[2] for key in keys}
        if not seeds:
            raise ValueError(f"The results have no row of the arm {arm!r} of {recipe!r}.")
        single = sorted(seed for seed in seeds if "+" not in seed)
        together = [max(seeds, key=lambda seed: (seed.count("+"), seed))]
        if "seed" in table:
            together = [str(table["seed"])]
        for seed in single if table.get("each_seed") else together:
            cells = [cell(rows.get((recipe, arm, seed, one["metric"], str(one["setting"]))), one) for one in columns]
            lines.append("| " + " | ".join([shown, *cells, seed.replace("+", ", ") or "–"]) + " |")
    return lines


def cell(row: Mapping[str, str] | None, column: Mapping[str, Any]) -> str:
    """A number with its interval, in the column's style: `share`, `change` or `number`."""
    if row is None:
        return "–"
    digits = column.get("digits", 1)
    style = column["style"]

    def number(text: str, mark: str = "") -> str:
        value = float(text) * (1 if style == "number" else 100)
        signed = f"{value:+.{digits}f}" if style == "change" else f"{value:.{digits}f}"
        return signed.replace("-", MINUS) + mark

    shown = number(row["value"], "" if style == "number" else "%")
    if row["low"] and column.get("interval", True):
        shown += f" ({number(row['low'])} to {number(row['high'])})"
    return shown


if __name__ == "__main__":
    main()
