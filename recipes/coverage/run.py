"""Find features that a seed set never fires, let a served model write examples for them, and measure the coverage.

python recipes/coverage/run.py --model MODEL --sae SAE --layer 17 --seed-set gsm8k.jsonl.gz --pool theoremqa.jsonl.gz \
    --endpoint http://localhost:8000/v1 --served-model NAME --output coverage --results coverage/results.csv
Every step is a command of `sae-posttrain data`. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sae_posttrain.cli import main as command
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.texts import load_rows

# Arm → the options of `data synthesize`.
ARMS = {"explained": [], "shown": ["--show", "3"], "random": ["--random"]}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the recipe; returns the rows of its results."""
    args = parse(arguments)
    out = args.output
    out.mkdir(parents=True, exist_ok=True)
    split(args)
    reading = ["--model", args.model, "--sae", args.sae, "--layer", str(args.layer)]
    reading += ["--max-length", str(args.max_length), "--cache", str(out / "firing")]
    asking = ["--endpoint", args.endpoint, "--served-model", args.served_model, "--concurrency", str(args.concurrency)]
    lacking, explained = out / "missing.jsonl", out / "explained.jsonl"
    pool = ["--pool", str(out / "pool.jsonl"), "--pool-least", str(args.pool_least), "--weak", "1"]
    once(lacking, ["data", "missing", str(out / "seed.jsonl"), *pool, "--output", str(lacking), *reading])
    without_cache = [one for one in reading[: reading.index("--cache")] if one != "--layer" and one != str(args.layer)]
    explain = ["--texts", str(out / "pool.jsonl"), "--limit-targets", str(args.targets), *without_cache]
    once(explained, ["data", "explain", str(lacking), *explain, "--output", str(explained), *asking])
    rows = [row for seed in args.seeds for row in measured(args, seed, explained, reading, asking)]
    append_results(args.results, rows, __file__)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub id of the model that the SAE belongs to")
    parser.add_argument("--sae", required=True, help="folder, hub id or short name of the SAEs")
    parser.add_argument("--layer", type=int, required=True, help="0-based decoder block")
    parser.add_argument("--seed-set", required=True, help="file with the data that are to be completed")
    parser.add_argument("--pool", required=True, help="file with texts of the wanted kind")
    parser.add_argument("--endpoint", required=True, help="server with OpenAI's protocol")
    parser.add_argument("--served-model", required=True, help="name of the model on the server")
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
    parser.add_argument("--per-target", type=int, default=4, help="prompts for each (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=96, help="tokens read of each text (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=80, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the generator (default: 0 1)")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="default: all")
    parser.add_argument("--output", type=Path, required=True, help="folder for all files")
    parser.add_argument("--results", type=Path, required=True, help=".csv file to append the results to")
    return parser.parse_args(arguments)


def split(args: argparse.Namespace) -> None:
    """The seed set, and two parts of the pool: one says what is wanted, the other is natural sampling."""
    pool = load_rows(args.pool)
    random.Random(0).shuffle(pool)
    files = {
        "seed": load_rows(args.seed_set, limit=args.seed_rows),
        "pool": pool[: args.pool_rows],
        "natural": pool[args.pool_rows : args.pool_rows + args.natural_rows],
    }
    for name, rows in files.items():
        texts = (json.dumps({"text": row["text"]}, ensure_ascii=False) + "\n" for row in rows)
        (args.output / f"{name}.jsonl").write_text("".join(texts), encoding="utf-8")


def once(output: Path, words: Sequence[str]) -> str:
    """Run a command unless its output is there; returns what it printed, which is kept beside the output."""
    printed = output.with_suffix(".txt")
    if not (output.exists() and printed.exists()):
        with redirect_stdout(io.StringIO()) as told:
            code = command(words)
        if code:
            raise SystemExit(code)
        printed.write_text(told.getvalue(), encoding="utf-8")
        print(told.getvalue(), end="", flush=True)
    return printed.read_text(encoding="utf-8")


def measured(
    args: argparse.Namespace, seed: int, explained: Path, reading: Sequence[str], asking: Sequence[str]
) -> list[dict[str, Any]]:
    """Write with each arm, verify, and compare coverage at an equal number of prompts; returns the rows."""
    out, rows = args.output, []
    about = {"model": Path(args.model).name, "layer": args.layer, "seed": seed}
    for arm in args.arms:
        written, kept = out / f"{arm}-{seed}.jsonl", out / f"{arm}-{seed}-kept.jsonl"
        sizes = ["--per-target", str(args.per_target), "--max-new-tokens", str(args.max_new_tokens), "--no-answers"]
        words = ["data", "synthesize", str(explained), *sizes, *ARMS[arm], "--seed", str(seed), *asking]
        once(written, [*words, "--output", str(written)])
        cache = [*reading[:-1], str(out / "firing" / f"{arm}-{seed}")]
        told = json.loads(once(kept, ["data", "verify", str(written), "--output", str(kept), "--json", *cache]))
        names = {"fires its own target": "share", "fires a target of another example": "chance", "p": "p_value"}
        for metric, key in names.items():
            bounds = {side: told[side] if key == "share" else None for side in ("low", "high")}
            rows.append({**about, "arm": arm, "metric": metric, "value": told[key], **bounds, "n": told["examples"]})
        hit = told["targets_hit"] / told["targets"]
        value = {"metric": "targets hit", "value": hit, "low": None, "high": None}
        rows.append({**about, "arm": arm, **value, "n": told["targets"]})
    curves = out / f"coverage-{seed}.json"
    sets = [f"{arm}-{seed}={out / f'{arm}-{seed}.jsonl'}" for arm in args.arms]  # names of their own in the cache
    columns = [f"{arm}-{seed}=prompt" for arm in args.arms]
    words = ["data", "coverage", *sets, f"natural={out / 'natural.jsonl'}", "--columns", *columns]
    once(curves, [*words, "--targets", str(explained), "--output", str(curves), *reading])
    (found,) = json.loads(curves.read_text(encoding="utf-8")).values()
    for name, curve in found[0]["curves"].items():
        place = min(range(len(curve["budgets"])), key=lambda n: abs(curve["budgets"][n] - found[0]["budget"]))
        bounds = {"low": curve["low"][place], "high": curve["high"][place]}
        value = {"metric": f"coverage by {found[0]['budget']} examples", "value": found[0]["at_budget"][name]}
        rows.append({**about, "arm": name.removesuffix(f"-{seed}"), **value, **bounds, "n": found[0]["targets"]})
    return rows


if __name__ == "__main__":
    main()
