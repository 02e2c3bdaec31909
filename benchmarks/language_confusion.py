"""Line and word pass rates on the public outputs of the Language Confusion Benchmark, beside the published numbers.

    python benchmarks/language_confusion.py --benchmark FOLDER

The folder is a checkout of github.com/for-ai/language-confusion (Apache-2.0): `outputs/*.csv` and the list `words`.
The published numbers are those of the paper (arXiv:2406.20052, its tables of LPR and WPR), to two decimals as its code
gives them on the same files with fastText's lid.176.bin: datasets/LCB/results/reproduction_pass_rates.csv of
github.com/siebeniris/QuantifyingLanguageConfusion, which agrees with the paper's numbers of one decimal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _rows
from _rows import Row

from sae_posttrain.metrics import language_confusion
from sae_posttrain.texts import load_rows

# model: LPR and WPR of answers to prompts in their own language, then to prompts in English
PUBLISHED = {
    "command-r": (98.56, 96.25, 68.08, 93.95),
    "command-r-base": (86.26, 97.74, 0.66, 97.22),
    "command-r-plus": (99.24, 99.44, 91.22, 95.11),
    "command-r-plus-base": (82.14, 98.36, 0.93, 94.44),
    "gpt-3.5-turbo": (99.07, 99.83, 89.83, 98.75),
    "gpt-4-turbo": (99.31, 99.66, 90.26, 96.63),
    "llama-2-instruct": (48.27, 97.94, 38.38, 84.20),
    "llama-3-instruct": (46.01, 93.01, 30.25, 94.40),
    "mistral-8x7b": (72.98, 73.75, 69.02, 68.21),
    "mistral-large": (69.90, 98.43, 58.23, 93.83),
}
TASKS = ("monolingual", "crosslingual")


def measure(folder: Path, model: str, task: str, english: frozenset[str]) -> list[Row]:
    rows = [row for row in load_rows(folder / "outputs" / f"{model}.csv") if row["task"] == task]
    report = language_confusion(
        [row["completion"] for row in rows],
        [row["language"] for row in rows],
        sources=[row["source"] for row in rows],
        english=english,
        published=True,
    )
    first = 2 * TASKS.index(task)
    lpr, wpr = PUBLISHED[model][first : first + 2]
    assert report.wpr is not None
    pooled_words = float("nan") if report.words is None else report.words.rate
    case = f"{model}, {task}"
    return [
        Row(case, "LPR", round(100 * report.lpr.rate, 2), "%"),
        Row(case, "LPR, published", lpr, "%"),
        Row(case, "LPR, difference", round(100 * report.lpr.rate - lpr, 2), "points"),
        Row(case, "LPR, pooled", round(100 * report.lines.rate, 2), "%"),
        Row(case, "WPR", round(100 * report.wpr.rate, 2), "%"),
        Row(case, "WPR, published", wpr, "%"),
        Row(case, "WPR, difference", round(100 * report.wpr.rate - wpr, 2), "points"),
        Row(case, "WPR, pooled", round(100 * pooled_words, 2), "%"),
        Row(case, "responses judged by word", 0 if report.words is None else report.words.total, "responses"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, required=True, help="a checkout of for-ai/language-confusion")
    folder: Path = parser.parse_args().benchmark
    english = frozenset((folder / "words").read_text(encoding="utf-8").split())
    found: list[Row] = []
    for model in PUBLISHED:
        for task in TASKS:
            found += measure(folder, model, task, english)
            print(*(f"{row.measure} {row.value}" for row in found[-9:]), sep="  ", flush=True)
    for rate in ("LPR", "WPR"):
        apart = [abs(row.value) for row in found if row.measure == f"{rate}, difference"]
        found += [
            Row("all", f"{rate}, largest difference", max(apart), "points"),
            Row("all", f"{rate}, mean difference", round(sum(apart) / len(apart), 2), "points"),
        ]
    print(_rows.write("language_confusion", found))


if __name__ == "__main__":
    main()
