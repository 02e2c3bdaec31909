"""Write the table of times in results/README.md anew from the CSV files: `python benchmarks/_table.py`."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import fields
from itertools import groupby

from _rows import RESULTS
from _timing import Timing

README = RESULTS / "README.md"
BEGIN, END = "<!-- times -->\n", "<!-- end of times -->\n"
Rows = list[dict[str, str]]


def timings() -> dict[str, Rows]:
    """File → rows, of the files that hold times."""
    names = {field.name for field in fields(Timing)}
    found = {}
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if names <= set(reader.fieldnames or ()):
                found[path.stem] = list(reader)
    return found


def markdown(found: dict[str, Rows]) -> str:
    lines = ["| what | size | time, s | per second | ratio (20% to 80%) | memory, MB |", "|---|---|---|---|---|---|"]
    for name, rows in found.items():
        lines.append(f"| **[{name}]({name}.csv)** | {origin(rows)} | | | | |")
        for (size, dtype), group in groupby(rows, lambda row: (row["size"], row["dtype"])):
            lines += line_each(group, size if dtype in ("", "float32") else f"{size}, {dtype}")
    return "\n".join(lines) + "\n"


def line_each(rows: Iterable[dict[str, str]], size: str) -> Iterable[str]:
    for row in rows:
        low, middle, high = (short(row[name]) for name in ("ratio_p20", "ratio_p50", "ratio_p80"))
        ratio = "1" if row["base"] in (row["variant"], row["size"]) else f"{middle} ({low} to {high})"
        rate = f"{speed(float(row['per_second']))} {row['unit']}" if row["per_second"] else ""
        yield f"| {row['variant']} | {size} | {float(row['p50']):.3g} | {rate} | {ratio} | {row['peak_memory']} |"


def speed(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 1000 else f"{per_second:g}"


def short(ratio: str) -> str:
    return f"{float(ratio):.3f}" if float(ratio) < 10 else f"{float(ratio):.1f}"


def origin(rows: Rows) -> str:
    first = rows[0]
    return f"{first['hardware']}; {first['versions']}; {first['commit']}, {first['date']}"


def main() -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README} has no lines {BEGIN.strip()} and {END.strip()} to write between.")
    README.write_text(before + BEGIN + "\n" + markdown(timings()) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
