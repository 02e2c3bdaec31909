"""Find features that a seed set never fires, let a served model write examples for them, and measure the coverage.

python recipes/coverage/run.py --model MODEL --sae SAE --layer 17 --seed-set gsm8k.jsonl.gz --pool theoremqa.jsonl.gz \
    --instructions recipes/coverage/mathematics.yaml --endpoint http://localhost:8000/v1 --served-model NAME \
    --output coverage --results coverage/results.csv
Every step is a command of `sae-posttrain data`. What is finished is not done again, unless an option of it has changed:
then the recipe stops and says which.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recorded_steps import run_once, write_once  # type: ignore[import-not-found]

from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.metrics.interval import clustered_interval
from sae_posttrain.texts import load_rows

# Arm → the options of `data synthesize`.
ARMS = {"explained": [], "shown": ["--show", "3"], "random": ["--random"]}
COPIED_WORDS = 5
"""A prompt is a copy if at least half of its sequences of so many words are in a passage that its feature fires in."""


@dataclass(frozen=True)
class Options:
    """The options that the commands share: which model reads the texts, who writes them, and how."""

    reading: list[str]
    asking: list[str]
    writing: list[str]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the recipe; returns the rows of its results."""
    args = parse(arguments)
    out = args.output
    out.mkdir(parents=True, exist_ok=True)
    split(args)
    options = options_of(args)
    lacking, explained = out / "missing.jsonl", out / "explained.jsonl"
    pool = ["--pool", str(out / "pool.jsonl"), "--pool-least", str(args.pool_least), "--weak", "1"]
    reading = [*options.reading, "--cache", str(out / "firing")]
    run_once(lacking, ["data", "missing", str(out / "seed.jsonl"), *pool, "--output", str(lacking), *reading])
    explain = ["--texts", str(out / "pool.jsonl"), "--limit-targets", str(args.targets), *options.reading]
    explain += ["--task", args.task] if args.task else []
    run_once(explained, ["data", "explain", str(lacking), *explain, "--output", str(explained), *options.asking])
    about = {"task": args.name, "generator": args.served_model, "model": Path(args.model).name, "layer": args.layer}
    rows = []
    for seed in args.seeds:
        for arm in args.arms:
            rows += [{**about, "seed": seed, "arm": arm, **row} for row in written(args, options, arm, seed)]
        rows += [{**about, "seed": seed, **row} for row in compared(args, options, seed)]
    append_results(args.results, rows, __file__)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub id of the model that the SAE belongs to")
    parser.add_argument("--sae", required=True, help="folder, hub id or short name of the SAEs")
    parser.add_argument("--layer", type=int, required=True, help="0-based decoder block")
    parser.add_argument("--name", help="name of the task in the results (default: the file name of --pool)")
    parser.add_argument("--seed-set", required=True, help="file with the data that are to be completed")
    parser.add_argument("--pool", required=True, help="file with texts of the wanted kind")
    parser.add_argument(
        "--topic",
        metavar="COLUMN=VALUE",
        help="of --pool, use the rows with this value; of --seed-set, the rows with another value",
    )
    parser.add_argument("--least-words", type=int, default=1, help="leave out shorter texts (default: %(default)s)")
    parser.add_argument("--endpoint", required=True, help="server with OpenAI's protocol")
    parser.add_argument("--served-model", required=True, help="name of the model on the server")
    parser.add_argument("--instructions", help=".yaml file with instructions for the model on the server")
    parser.add_argument("--task", help="also ask the model how relevant each feature is to this")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once (default: %(default)s)")
    parser.add_argument("--seed-rows", type=int, default=100, help="rows of --seed-set (default: %(default)s)")
    parser.add_argument(
        "--pool-rows", type=int, default=250, help="rows that say what is wanted (default: %(default)s)"
    )
    parser.add_argument(
        "--natural-rows", type=int, default=250, help="other rows to compare with (default: %(default)s)"
    )
    parser.add_argument("--pool-least", type=int, default=3, help="rows that a wanted feature fires in")
    parser.add_argument("--targets", type=int, default=24, help="features to write for (default: %(default)s)")
    parser.add_argument("--per-target", type=int, default=2, help="prompts for each (default: %(default)s)")
    parser.add_argument("--rewrites", type=int, default=1, help="rewrites of each prompt (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=96, help="tokens read of each text (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the generator (default: 0 1 2)")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="default: all")
    parser.add_argument("--output", type=Path, required=True, help="folder for all files")
    parser.add_argument("--results", type=Path, required=True, help=".csv file to append the results to")
    args = parser.parse_args(arguments)
    args.name = args.name or Path(args.pool).name.partition(".")[0]
    return args


def split(args: argparse.Namespace) -> None:
    """Write the seed set, and two parts of the pool: one says what is wanted, the other is natural sampling."""
    pool = texts_of(args.pool, args.topic, args.least_words)
    wanted, others = pool[: args.pool_rows], pool[args.pool_rows :]
    files = {
        "seed": texts_of(args.seed_set, args.topic, args.least_words, inside=False)[: args.seed_rows],
        "pool": wanted,
        "natural": others[: args.natural_rows],
    }
    for name, found in files.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found)
        write_once(args.output / f"{name}.jsonl", "".join(lines))


def texts_of(source: str, topic: str | None, least_words: int, *, inside: bool = True) -> list[str]:
    """The texts of a file in random order; with a topic COLUMN=VALUE, those of rows inside it or outside of it."""
    column, _, value = (topic or "").partition("=")
    rows = [row for row in load_rows(source) if not topic or (str(row.get(column)) == value) == inside]
    found = [row["text"] for row in rows if len(row["text"].split()) >= least_words]
    random.Random(0).shuffle(found)
    return found


def options_of(args: argparse.Namespace) -> Options:
    reading = ["--model", args.model, "--sae", args.sae, "--layer", str(args.layer)]
    asking = ["--endpoint", args.endpoint, "--served-model", args.served_model, "--concurrency", str(args.concurrency)]
    asking += ["--instructions", args.instructions] if args.instructions else []
    writing = ["--per-target", str(args.per_target), "--rewrites", str(args.rewrites), "--no-answers"]
    writing += ["--max-new-tokens", str(args.max_new_tokens)]
    return Options([*reading, "--max-length", str(args.max_length)], asking, writing)


def written(args: argparse.Namespace, options: Options, arm: str, seed: int) -> Iterator[dict[str, Any]]:
    """Write prompts with one arm and verify them; yields a row for each number."""
    out, name = args.output, f"{arm}-{seed}"
    file, kept = out / f"{name}.jsonl", out / f"{name}-kept.jsonl"
    words = ["data", "synthesize", str(out / "explained.jsonl"), *ARMS[arm], *options.writing, "--seed", str(seed)]
    run_once(file, [*words, *options.asking, "--output", str(file)])
    verify = ["data", "verify", str(file), "--output", str(kept), "--json", *options.reading]
    told = json.loads(run_once(kept, [*verify, "--cache", str(out / "firing" / name)]))
    yield number("fires its own target", told["share"], told["examples"], told["low"], told["high"])
    yield number("fires a target of another example", told["chance"], told["examples"])
    yield number("p", told["p_value"], told["examples"])
    yield number("targets hit", told["targets_hit"] / told["targets"], told["targets"])
    rows = load_rows(file)
    own = {(row["prompt"], row["feature"]) for row in (load_rows(kept) if told["kept"] else [])}
    passages = {row["feature"]: row["passages"] for row in load_rows(out / "explained.jsonl")}
    parts = {
        "plain prompts": [row for row in rows if row["rewrite"] == 0],
        "rewrites": [row for row in rows if row["rewrite"]],
        "no copies": [row for row in rows if not is_copy(row["prompt"], passages[row["feature"]])],
    }
    for part, chosen in parts.items():
        hits = [(row["prompt"], row["feature"]) in own for row in chosen]
        if hits:
            bounds = clustered_interval(hits, [row["feature"] for row in chosen])
            yield number(f"fires its own target, {part}", sum(hits) / len(hits), len(hits), *bounds)
    yield number("words of a prompt", sum(len(row["prompt"].split()) for row in rows) / len(rows), len(rows))


def compared(args: argparse.Namespace, options: Options, seed: int) -> Iterator[dict[str, Any]]:
    """Compare the coverage of the arms with natural sampling, at an equal number of prompts; yields a row for each."""
    out = args.output
    file = out / f"coverage-{seed}.json"
    sets = [f"{arm}-{seed}={out / f'{arm}-{seed}.jsonl'}" for arm in args.arms]  # names of their own in the cache
    columns = [f"{arm}-{seed}=prompt" for arm in args.arms]
    words = ["data", "coverage", *sets, f"natural={out / 'natural.jsonl'}", "--columns", *columns]
    words += ["--targets", str(out / "explained.jsonl"), "--output", str(file), *options.reading]
    run_once(file, [*words, "--cache", str(out / "firing")])
    ((found,),) = json.loads(file.read_text(encoding="utf-8")).values()
    for name, curve in found["curves"].items():
        place = min(range(len(curve["budgets"])), key=lambda n: abs(curve["budgets"][n] - found["budget"]))
        bounds = curve["low"][place], curve["high"][place]
        metric = f"coverage by {found['budget']} examples"
        row = number(metric, found["at_budget"][name], found["targets"], *bounds)
        yield {"arm": name.removesuffix(f"-{seed}"), **row}


def is_copy(prompt: str, passages: Sequence[str]) -> bool:
    """Whether at least half of the prompt's sequences of five words are in one of the passages."""

    def sequences(text: str) -> list[tuple[str, ...]]:
        words = text.lower().split()
        return [tuple(words[n : n + COPIED_WORDS]) for n in range(max(1, len(words) - COPIED_WORDS + 1))]

    own = sequences(prompt)
    return any(sum(one in there for one in own) * 2 >= len(own) for there in map(set, map(sequences, passages)))


def number(
    metric: str, value: float | None, n: int, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"metric": metric, "value": value, "low": low, "high": high, "n": n}


if __name__ == "__main__":
    main()
