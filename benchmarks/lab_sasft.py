"""Does SASFT switch language half as often as SFT, at no more than 1% higher held-out loss, and random features not?

    python benchmarks/lab_sasft.py [--base FOLDER]

Beside them stands what needs no SAE: unlikelihood of the suppressed language's tokens.

zh, ru and ko in turn, three seeds each (of the training data, its order and the discovery texts), on one base model
and its SAE, which are trained first. SFT is trained once a seed and measured for each language. With --base it takes
the `base` model and the SAE that `sae-posttrain demo` left in FOLDER instead of training them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _rows import Row, write
from transformers import AutoTokenizer

from sae_posttrain.lab.shared.console import quiet
from sae_posttrain.lab.switching.experiment import (
    ARMS,
    BENCHMARK,
    WITH_FEATURES,
    Outcome,
    Settings,
    callback_of,
    find_features,
    fine_tune,
    measure,
)
from sae_posttrain.lab.switching.world import World, build_world, measure_world

LANGUAGES = ("zh", "ru", "ko")
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of an earlier demo")
    folder = parser.parse_args().base
    rows: list[Row] = []
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        world = build_world(Path(scratch)) if folder is None else measure_world(folder)
        rows += world_rows(world)
        for seed in SEEDS:
            for (language, seed_), outcome in run_seed(world.base, world.saes, seed, BENCHMARK):
                rows += outcome_rows(language, seed_, outcome)
            write("lab_sasft", rows)  # half a table is better than none
    rows += summary_rows(rows)
    print(f"Wrote {write('lab_sasft', rows)}")


def world_rows(world: World) -> list[Row]:
    """What the base model is."""
    numbers = {
        "parameters": (world.parameters, "1"),
        "vocabulary": (world.vocabulary, "symbols"),
        "held-out loss": (world.held_out_loss, "nats/token"),
        "continues a rhyme given two periods": (world.copies_rhymes, "share"),
        "continues a sentence given two periods": (world.copies_stories, "share"),
        **{f"variance unexplained, layer {n}": (share, "share") for n, share in world.unexplained.items()},
    }
    return [Row("base model", name, value, unit) for name, (value, unit) in numbers.items()]


def run_seed(base: Path, saes: Path, seed: int, settings: Settings) -> list[tuple[tuple[str, int], Outcome]]:
    """All arms of one seed: (language, seed) and what was measured."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = []

    def keep(outcome: Outcome, language: str) -> None:
        rates = ", ".join(f"{rate.rate:.2%} at top_p {top_p}" for top_p, rate in outcome.switching.items())
        print(f"seed {seed}, to {language}, {outcome.arm}: {rates}; loss {outcome.held_out_loss:.4f}", flush=True)
        found.append(((language, seed), outcome))

    plain = fine_tune(base, seed, settings)
    for language in LANGUAGES:
        keep(measure("SFT", plain, tokenizer, language, settings), language)
        for arm in ARMS[1:]:
            features = find_features(base, saes, language, seed, settings, arm) if arm in WITH_FEATURES else None
            model = fine_tune(base, seed, settings, callback_of(arm, features, language, settings))
            keep(measure(arm, model, tokenizer, language, settings), language)
    return found


def outcome_rows(language: str, seed: int, outcome: Outcome) -> list[Row]:
    case = f"to {language}, seed {seed}, {outcome.arm}"
    rows = [Row(case, "held-out loss", outcome.held_out_loss, "nats/token")]
    for top_p, rate in outcome.switching.items():
        for name, value in (("", rate.rate), (", low", rate.low), (", high", rate.high)):
            rows.append(Row(case, f"switching at top_p {top_p}{name}", value, "share of responses"))
        rows.append(Row(case, f"responses at top_p {top_p}", rate.total, "1"))
    return rows


def summary_rows(rows: list[Row]) -> list[Row]:
    """Means over seeds against SFT: how much less switching, how much more loss."""
    value = {(row.case, row.measure): row.value for row in rows}

    def mean(language: str, arm: str, measure_: str) -> float:
        return sum(value[f"to {language}, seed {seed}, {arm}", measure_] for seed in SEEDS) / len(SEEDS)

    summary = []
    measures = [
        name
        for name in dict.fromkeys(row.measure for row in rows)
        if name == "held-out loss" or (name.startswith("switching") and not name.endswith(("low", "high")))
    ]
    for language in LANGUAGES:
        for arm in ARMS[1:]:
            for name in measures:
                plain = mean(language, "SFT", name)
                if plain:
                    change = mean(language, arm, name) / plain - 1
                    summary.append(Row(f"to {language}, mean of seeds, {arm}", f"{name} against SFT", change, "change"))
    for row in summary:
        print(f"{row.case}: {row.measure} {row.value:+.2%}")
    return summary


if __name__ == "__main__":
    main()
