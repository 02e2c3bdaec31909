"""Measure a capability that must not suffer: choose the true continuation of a text among four, in four languages.

python recipes/real_weights/choices.py --runs models/gemma3-270m-cut runs --against runs/sft-0 runs/sft-1 runs/sft-2 \
    --texts real_weights/texts --results real_weights.csv
An item is the end of a held-out prompt (20 tokens) with the first 16 tokens of its own answer and of three other
held-out answers in the same language. A run chooses the continuation with the highest likelihood. Chance is 25%.
"""

# B items, C choices, P prompt length, T continuation length, V vocabulary

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_rows import (  # type: ignore[import-not-found]
    Arm,
    add_runs,
    compared,
    finished_runs,
    held_out,
    load_run,
    ratio_interval,
    read_arm,
    replace_rows,
    row,
)

RECIPE = "switching"
CHOICES = 4


@dataclass(frozen=True)
class Item:
    """A prompt's token ids and those of the continuations; the true one is the first."""

    language: str
    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Chosen:
    """Of each item, its language and whether the true continuation was chosen: 0 or 1, or the mean over seeds."""

    arm: Arm
    languages: list[str]
    right: list[float]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_runs(parser, RECIPE, required=False)
    parser.add_argument("--skip", type=int, default=0, help="held-out texts of each language to pass over first")
    parser.add_argument("--per-language", type=int, default=50, help="items (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=16, help="of a continuation (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=10, help="items at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    against = [chosen(run, args) for run in args.against]
    found = [chosen(run, args) for run in finished_runs(args.runs) if run not in args.against]
    written = [line for one, other in compared(found, against, together) for line in rows_of(one, other)]
    replace_rows(args.results, [{**line, "recipe": args.recipe} for line in written])
    for line in written:
        print(", ".join(str(value) for value in list(line.values())[1:9]), flush=True)
    return written


def together(arm: Arm, group: Sequence[Chosen]) -> Chosen:
    """The seeds of one arm as one: the mean over seeds of each item, so that the interval draws items."""
    return Chosen(arm, group[0].languages, np.mean([one.right for one in group], axis=0).tolist())


def chosen(run: Path, args: argparse.Namespace) -> Chosen:
    """What is kept of an earlier call with the same settings, or measured now."""
    arm = read_arm(run)
    settings = {name: getattr(args, name) for name in ("skip", "per_language", "prompt_tokens", "tokens", "dtype")}
    kept = (run if arm.base else args.results.parent) / f"choices-{run.name}.json"
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values.pop("settings") == settings:
            return Chosen(Arm(**values.pop("arm")), **values)
    model, tokenizer = load_run(run, args.dtype)
    rows = held_out(args.texts / "held_out.jsonl", args.per_language, args.skip)
    items = list(make_items(rows, tokenizer, args.prompt_tokens, args.tokens))
    starts = range(0, len(items), args.batch_size)
    scores_IC = torch.cat([log_likelihoods(model, items[start : start + args.batch_size]) for start in starts])
    found = Chosen(arm, [item.language for item in items], (scores_IC.argmax(-1) == 0).float().tolist())
    kept.parent.mkdir(parents=True, exist_ok=True)
    values = {"arm": vars(arm), "languages": found.languages, "right": found.right, "settings": settings}
    kept.write_text(json.dumps(values), encoding="utf-8")
    return found


def make_items(rows: Sequence[dict[str, Any]], tokenizer: Any, prompt_tokens: int, tokens: int) -> Iterator[Item]:
    """An item of each text that is long enough; the wrong continuations are those of the next texts in its language."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    by_language: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for row_ in rows:
        prompt = tokenizer(row_["prompt"], add_special_tokens=False)["input_ids"][-prompt_tokens:]
        answer = tokenizer(row_["completion"], add_special_tokens=False)["input_ids"][:tokens]
        if len(prompt) == prompt_tokens and len(answer) == tokens:
            by_language.setdefault(row_["language"], []).append(((*start, *prompt), tuple(answer)))
    for language, texts in by_language.items():
        if len(texts) < CHOICES:
            raise ValueError(f"{len(texts)} texts in {language} are long enough for an item; expected {CHOICES}.")
        for place, (prompt, _) in enumerate(texts):
            continuations = tuple(texts[(place + step) % len(texts)][1] for step in range(CHOICES))
            yield Item(language, prompt, continuations)


@torch.no_grad()
def log_likelihoods(model: Any, items: Sequence[Item]) -> torch.Tensor:
    """`(B, C)` log-probability of each continuation. The model reads each prompt once."""
    prompts_BP = torch.tensor([item.prompt for item in items])
    ids_BCT = torch.tensor([item.continuations for item in items])
    read = model(input_ids=prompts_BP, use_cache=True, logits_to_keep=1)
    first_BC1V = read.logits[:, None].expand(-1, CHOICES, -1, -1)
    read.past_key_values.batch_repeat_interleave(CHOICES)
    rest = model(input_ids=ids_BCT.flatten(0, 1)[:, :-1], past_key_values=read.past_key_values).logits
    logits_BCTV = torch.cat([first_BC1V, rest.unflatten(0, ids_BCT.shape[:2])], dim=2)
    nats_BCT = torch.nn.functional.cross_entropy(
        logits_BCTV.flatten(0, 2).float(), ids_BCT.flatten(), reduction="none"
    ).view(ids_BCT.shape)
    return -nats_BCT.sum(-1)


def rows_of(found: Chosen, against: Chosen | None) -> Iterator[dict[str, Any]]:
    """The share of items that are right, over all and by language, and the difference to plain SFT."""
    for code in ("all", *dict.fromkeys(found.languages)):
        kept = [i for i, own in enumerate(found.languages) if code in ("all", own)]
        share, low, high = ratio_interval(np.array([(found.right[i], 1) for i in kept]))
        yield row(RECIPE, found.arm, "right choices of four", code, share, low, high, len(kept))
        if against is not None:
            changes = np.array([(found.right[i] - against.right[i], 1) for i in kept])
            metric = f"difference of right choices against {against.arm.arm}"
            yield row(RECIPE, found.arm, metric, code, *ratio_interval(changes), len(kept))


if __name__ == "__main__":
    main()
