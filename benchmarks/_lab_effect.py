"""SASFT's effect in the lab, for trainers that are commands: the data and features on disk, three arms, one table.

The arms are plain SFT, SASFT, and its control with as many random features, from one base model and on the same rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from _rows import LIBRARIES, Row, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain.lab.shared.console import quiet
from sae_posttrain.lab.switching.experiment import Arm, Outcome, Settings, find_features, measure
from sae_posttrain.lab.switching.questions import questions
from sae_posttrain.lab.switching.world import build_world, measure_world

EFFECT_ARMS: tuple[Arm, ...] = ("SFT", "SASFT", "random features")
SETTINGS = Settings(prompts=1500)  # 6,000 responses to a rate
LANGUAGE, SEED = "zh", 0

Train = Callable[[Path, Path, Path | None, Path], Path]
"""Trains a base model on a file of rows, with a feature set or without SASFT, into a folder → the model's folder."""


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of an earlier demo, whose base model and SAEs are taken")
    return parser.parse_args()


def measure_effect(name: str, library: str, train: Train, base: Path | None) -> None:
    """Train and measure the arms, and write `results/<name>.csv`.

    Args:
        name: of the results.
        library: the framework's distribution, whose version is recorded.
        train: one run of its command.
        base: folder of an earlier demo; None trains the base model and the SAEs first.
    """
    outcomes = []
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world = build_world(folder / "world") if base is None else measure_world(base)
        tokenizer = AutoTokenizer.from_pretrained(world.base)
        data = write_rows(folder / "rows.jsonl")
        for arm in EFFECT_ARMS:
            features = None
            if arm != "SFT":
                found = find_features(world.base, world.saes, LANGUAGE, SEED, SETTINGS, arm)
                features = Path(found.save(folder / f"{arm}.safetensors"))
            trained = train(world.base, data, features, folder / arm)
            model = AutoModelForCausalLM.from_pretrained(trained).eval()
            outcomes.append(measure(arm, model, tokenizer, LANGUAGE, SETTINGS))
            rates = ", ".join(f"{rate.rate:.2%} at top_p {p}" for p, rate in outcomes[-1].switching.items())
            print(f"{arm}: {rates}; loss {outcomes[-1].held_out_loss:.4f}", flush=True)
    print(f"Wrote {write(name, rows_of(outcomes), libraries=(*LIBRARIES, library))}")


def write_rows(path: Path) -> Path:
    """The rows that every arm is trained on, as JSON lines with `messages` and `language`."""
    rows = questions(SETTINGS.steps * SETTINGS.batch, SEED, noise=SETTINGS.noise)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {"messages": row["prompt"] + row["completion"], "language": row["language"]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def rows_of(outcomes: list[Outcome]) -> list[Row]:
    """What was measured of each arm, and its change against plain SFT."""
    rows, plain = [], outcomes[0]
    for one in outcomes:
        case = f"to {LANGUAGE}, seed {SEED}, {one.arm}"
        rows.append(Row(case, "held-out loss", one.held_out_loss, "nats/token"))
        rows.append(Row(case, "held-out loss against SFT", one.held_out_loss / plain.held_out_loss - 1, "change"))
        for top_p, rate in one.switching.items():
            rows.append(Row(case, f"switching at top_p {top_p}", rate.rate, "share of responses"))
            rows.append(Row(case, f"switching at top_p {top_p}, low", rate.low, "share of responses"))
            rows.append(Row(case, f"switching at top_p {top_p}, high", rate.high, "share of responses"))
            rows.append(Row(case, f"responses at top_p {top_p}", rate.total, "1"))
            if plain.switching[top_p].rate:
                change = rate.rate / plain.switching[top_p].rate - 1
                rows.append(Row(case, f"switching at top_p {top_p} against SFT", change, "change"))
    return rows
