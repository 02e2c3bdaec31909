"""Expected switch rates against counting: the same model, sampled often, at several top_p.

    python benchmarks/expected_switch_rate.py --model FOLDER --prompts FILE [--to zh ru ko] [--answers 20000]

For each setting the model is sampled once. All answers are counted: those with a token that holds or begins a letter of
an unexpected script, and those whose text holds such a letter, as published. A twentieth of the same answers is then
only read, by `expected_switch_rate(sampled=True)`, and so is every other twentieth, to see how much both ways vary.
Any model with a tokenizer does; FILE holds rows of `prompt` and `language`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import _rows
import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.expected.columns import scripts_named, unexpected_in
from sae_posttrain.metrics import ExpectedSwitch, code_switching_rate, expected_switch_report
from sae_posttrain.metrics.interval import clustered_interval
from sae_posttrain.sampling import Response, SamplingSettings, sample_responses
from sae_posttrain.texts import load_rows
from sae_posttrain.vocabulary import token_scripts

PARTS = 20


@dataclass(frozen=True)
class Row:
    """A rate in percent with its 95% interval over prompts."""

    top_p: float
    way: str
    answers: int
    rate: float
    low: float
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--prompts", required=True, help="rows with prompt and language")
    parser.add_argument("--to", nargs="+", help="languages or scripts; default: all")
    parser.add_argument("--answers", type=int, default=20_000, help="sampled at each setting")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.9, 0.8])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--chat", action="store_true", help="apply the chat template")
    parser.add_argument("--name", default="expected_switch_rate", help="of the results file")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    prompts = load_rows(args.prompts)
    rows: list[Row] = []
    for top_p in args.top_p:
        rows += compare(model, tokenizer, prompts, Setting(1.0, top_p), args)
        print(f"written: {_rows.write(args.name, rows)}", flush=True)


def sampled(
    model: Any, tokenizer: Any, prompts: Sequence[dict[str, Any]], setting: Setting, args: argparse.Namespace
) -> list[tuple[dict[str, Any], Response]]:
    """Prompts with their answers: one after another within each part, so that parts are alike."""
    samples = -(-args.answers // len(prompts))
    found = sample_responses(
        model,
        tokenizer,
        [row["prompt"] for row in prompts],
        SamplingSettings(setting.temperature, setting.top_p, args.max_new_tokens),
        samples=samples,
        batch_size=args.batch_size,
        chat=args.chat,
    )
    answers = [
        (row, of_prompt[sample]) for sample in range(samples) for row, of_prompt in zip(prompts, found, strict=True)
    ]
    return answers[: args.answers]


def compare(
    model: Any, tokenizer: Any, prompts: Sequence[dict[str, Any]], setting: Setting, args: argparse.Namespace
) -> list[Row]:
    """Count and read the same answers."""
    answers = sampled(model, tokenizer, prompts, setting, args)
    probabilities = switch_probabilities(
        model,
        tokenizer,
        [row["prompt"] for row, _ in answers],
        [one.ids for _, one in answers],
        [row["language"] for row, _ in answers],
        settings=[setting],
        sampled=True,
        to=args.to,
        chat=args.chat,
        batch_size=args.batch_size,
    )[setting]
    read = [one for one in probabilities if one is not None]
    assert len(read) == len(answers), "a prompt's language is itself written in the targets"
    left = tokens_that_leave(tokenizer, answers, args.to)
    published = code_switching_rate(
        [one.text for _, one in answers],
        [row["language"] for row, _ in answers],
        to=args.to,
        clusters=[row["prompt"] for row, _ in answers],
        compare_published=True,
    ).published
    assert published is not None
    part = len(answers) // PARTS
    rows = [
        _counted(setting, "counted, tokens that hold or begin a letter", left, read),
        Row(
            setting.top_p,
            "counted, letters in the text",
            published.total,
            100 * published.rate,
            100 * published.low,
            100 * published.high,
        ),
        _expected(setting, "expected", read),
        _expected(setting, "expected, whole letters only", read, whole=True),
        _counted(setting, "counted, a twentieth", left[:part], read[:part]),
        _expected(setting, "expected, a twentieth", read[:part]),
        *_spread(setting, left, [one.any for one in read]),
    ]
    for row in rows:
        print(
            f"top_p {row.top_p}  {row.way:45} {row.answers:6}  {row.rate:8.4f}  {row.low:8.4f} to {row.high:8.4f}",
            flush=True,
        )
    return rows


def tokens_that_leave(
    tokenizer: Any, answers: Sequence[tuple[dict[str, Any], Any]], to: Sequence[str] | None
) -> list[bool]:
    """Whether each answer has a token that holds or begins a letter of an unexpected script."""
    table = token_scripts(tokenizer)
    left = []
    for row, one in answers:
        scripts = unexpected_in(row["language"]) - {"Grek"}
        scripts = scripts if to is None else scripts & scripts_named(to)
        letters = [table.letters[token] for token in one.ids]
        left.append(any(not scripts.isdisjoint(held.scripts) or held.begun in scripts for held in letters))
    return left


def _counted(setting: Setting, way: str, left: Sequence[bool], read: Sequence[ExpectedSwitch]) -> Row:
    low, high = clustered_interval(left, [one.cluster for one in read])
    return Row(setting.top_p, way, len(left), 100 * float(np.mean(left)), 100 * low, 100 * high)


def _expected(setting: Setting, way: str, read: Sequence[ExpectedSwitch], *, whole: bool = False) -> Row:
    if whole:
        read = [ExpectedSwitch(one.language, one.cluster, one.any - one.begun, {}) for one in read]
    mean = expected_switch_report(read).overall
    return Row(setting.top_p, way, mean.total, 100 * mean.rate, 100 * mean.low, 100 * mean.high)


def _spread(setting: Setting, left: Sequence[bool], read: Sequence[float]) -> list[Row]:
    """Over the parts: the lowest and the highest rate, and as `rate` the standard deviation."""
    found = []
    for way, values in (("counted", left), ("expected", read)):
        parts = np.array([np.mean(part) for part in np.array_split(np.asarray(values, float), PARTS)])
        spread = (100 * float(number) for number in (parts.std(ddof=1), parts.min(), parts.max()))
        found.append(Row(setting.top_p, f"{way}, standard deviation of a twentieth", len(values) // PARTS, *spread))
    return found


if __name__ == "__main__":
    main()
