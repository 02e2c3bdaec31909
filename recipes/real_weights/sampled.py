"""Sample answers from arms of the code-switching experiment, and count the switches in them.

python recipes/real_weights/sampled.py --runs runs --against runs/sft-0 runs/sft-1 runs/sft-2 \
    --texts real_weights/texts --results real_weights.csv
Prompts are those of the held-out texts in every language, and prompts that ask for Chinese. The answers are kept in
each run's folder, so that a second call only counts. `--mask` samples the runs of --against again, with the Chinese
tokens masked in the logits unless the prompt is Chinese: the arm `logit_mask zh`, which needs no training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from result_rows import (  # type: ignore[import-not-found]
    Arm,
    add_runs,
    compared,
    finished_runs,
    held_out,
    load_run,
    read_arm,
    replace_rows,
    row,
)

from sae_posttrain.languages import get_language, script_counts
from sae_posttrain.metrics import PhraseFinder, code_switching_rate
from sae_posttrain.metrics.comparison import compare_rates
from sae_posttrain.metrics.interval import clustered_interval
from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.vocabulary import token_scripts

ASKED = "asked for"
"""Language of a prompt that asks for an answer in the language of `--to`."""
EXAMPLES = {
    "zh": (
        ("The weather is good today.", "今天天气很好。"),
        ("You can read this page first.", "你可以先阅读这一页。"),
        ("We will explain it in the next chapter.", "我们会在下一章解释它。"),
    ),
    "ko": (
        ("The weather is good today.", "오늘은 날씨가 좋습니다."),
        ("You can read this page first.", "먼저 이 페이지를 읽어 보세요."),
        ("We will explain it in the next chapter.", "다음 장에서 설명하겠습니다."),
    ),
    "ru": (
        ("The weather is good today.", "Сегодня хорошая погода."),
        ("You can read this page first.", "Сначала прочитайте эту страницу."),
        ("We will explain it in the next chapter.", "Мы объясним это в следующей главе."),
    ),
}
NAMES = {"zh": "Chinese", "ko": "Korean", "ru": "Russian"}

RECIPE = "switching"


@dataclass(frozen=True)
class Sampled:
    """Answers of one run, or of several seeds of an arm together."""

    arm: Arm
    prompts: list[str]
    languages: list[str]
    answers: list[str]

    def of(self, wanted: Callable[[str], bool]) -> tuple[list[str], list[str], list[str]]:
        """Answers, languages and prompts of these languages."""
        kept = [i for i, language in enumerate(self.languages) if wanted(language)]
        columns = (self.answers, self.languages, self.prompts)
        answers, languages, prompts = ([column[i] for i in kept] for column in columns)
        return answers, languages, prompts


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_runs(parser, RECIPE, required=False)
    parser.add_argument("--to", default="zh", help="suppressed language (default: %(default)s)")
    parser.add_argument(
        "--phrases", action="store_true", help="count phrases in --to, in languages of the same script; needs py3langid"
    )
    parser.add_argument("--samples", type=int, default=1, help="answers per prompt (default: %(default)s)")
    parser.add_argument("--mask", action="store_true", help="mask the tokens of --to in the logits")
    parser.add_argument("--skip", type=int, default=0, help="held-out texts of each language to pass over first")
    parser.add_argument("--per-language", type=int, default=70, help="prompts per language (default: %(default)s)")
    parser.add_argument("--asking", type=int, default=30, help="prompts that ask for --to (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.3, help="default: %(default)s")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=40, help="answers at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    rows = held_out(args.texts / "held_out.jsonl", args.per_language, args.skip)
    asked = [(row["prompt"], row["language"]) for row in rows if row["language"] != args.to or not args.phrases]
    if args.to in EXAMPLES and not args.phrases:
        asked += [(prompt, ASKED) for prompt in asking(rows, args.to, args.asking)]
    asked = asked * args.samples
    against = [sampled(run, asked, args, False) for run in args.against]
    runs = args.against if args.mask else [run for run in finished_runs(args.runs) if run not in args.against]
    found = [sampled(run, asked, args, args.mask) for run in runs]
    written = [line for one, other in compared(found, against, together) for line in rows_of(one, other, args)]
    replace_rows(args.results, [{**line, "recipe": args.recipe} for line in written])
    for line in written:
        print(", ".join(str(value) for value in list(line.values())[1:9]), flush=True)
    return written


def asking(rows: Sequence[dict[str, Any]], to: str, count: int) -> list[str]:
    """Prompts that show three translations and ask for a fourth, of the first sentence of an English text."""
    shown = "".join(f"English: {english}\n{NAMES[to]}: {other}\n" for english, other in EXAMPLES[to])
    first = [row["prompt"].split(". ")[0].strip() for row in rows if row["language"] == "en"]
    return [f"{shown}English: {sentence}\n{NAMES[to]}:" for sentence in first[:count]]


def sampled(run: Path, asked: Sequence[tuple[str, str]], args: argparse.Namespace, mask: bool) -> Sampled:
    """What is kept of an earlier call with the same prompts and settings, or sampled now."""
    arm = read_arm(run)
    if mask:
        arm = replace(arm, arm=f"logit_mask {args.to}")
    names = ("temperature", "max_new_tokens", "batch_size", "dtype", "to")
    settings = {**{name: getattr(args, name) for name in names}, "mask": mask, "asked": [list(one) for one in asked]}
    prompts, languages = [prompt for prompt, _ in asked], [language for _, language in asked]
    folder = run if arm.base else args.results.parent
    kept = folder / f"sampled-{run.name}-{args.to}{'-masked' if mask else ''}.json"
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values["settings"] == settings:
            return Sampled(Arm(**values["arm"]), prompts, languages, values["answers"])
    model, tokenizer = load_run(run, args.dtype)
    masked = token_scripts(tokenizer).mask(get_language(args.to).scripts, size=model.config.vocab_size)
    answers = [""] * len(asked)
    for hidden in (False, True) if mask else (False,):
        places = [i for i, (_, language) in enumerate(asked) if not mask or (language == args.to) != hidden]
        with without_tokens(model, masked if hidden else None):
            responses = sample_responses(
                model,
                tokenizer,
                [asked[i][0] for i in places],
                SamplingSettings(args.temperature, 1.0, args.max_new_tokens, seed=int(arm.seed or 0)),
                samples=1,
                batch_size=args.batch_size,
            )
        for place, of_prompt in zip(places, responses, strict=True):
            answers[place] = of_prompt[0].text
    kept.parent.mkdir(parents=True, exist_ok=True)
    values = {"arm": vars(arm), "settings": settings, "answers": answers}
    kept.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return Sampled(arm, prompts, languages, answers)


@contextmanager
def without_tokens(model: Any, masked_V: torch.Tensor | None) -> Iterator[None]:
    """The model with these tokens' logits at minus infinity; as it is with None."""

    def hide(module: Any, inputs: Any, output: Any) -> Any:
        output.logits = output.logits.masked_fill(masked_V, float("-inf"))
        return output

    handle = None if masked_V is None else model.register_forward_hook(hide)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def together(arm: Arm, group: Sequence[Sampled]) -> Sampled:
    """The seeds of one arm as one; answers to one prompt stay together."""
    return Sampled(
        arm,
        [prompt for one in group for prompt in one.prompts],
        [language for one in group for language in one.languages],
        [answer for one in group for answer in one.answers],
    )


def rows_of(found: Sampled, against: Sampled | None, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The share of answers that leave for each script, its difference to plain SFT, and what is answered in --to."""
    how = f"temperature {args.temperature:g}"

    finder = PhraseFinder([args.to]) if args.phrases else None

    def report(one: Sampled, to: str | None) -> Any:
        answers, languages, prompts = one.of(lambda language: language != ASKED)
        return code_switching_rate(answers, languages, prompts=prompts, to=to, phrases=finder, clusters=prompts)

    codes = set(found.languages) - {ASKED}
    scripts = {script for code in codes for script in get_language(code).scripts} - {"Latn"}
    for into in (args.to,) if args.phrases else (None, *sorted(scripts)):
        own = report(found, into)
        setting = f"into {into or 'any'}, {how}"
        rate = own.overall
        yield row(RECIPE, found.arm, "sampled answers that leave", setting, rate.rate, rate.low, rate.high, rate.total)
        if against is not None:
            metric = f"difference of sampled answers that leave against {against.arm.arm}"
            change = compare_rates(own, report(against, into))
            yield row(RECIPE, found.arm, metric, setting, change.difference, change.low, change.high, rate.total)
    for asked, name in ((args.to, f"prompts in {args.to}"), (ASKED, f"prompts that ask for {args.to}")):
        answers, _, prompts = found.of(lambda language, asked=asked: language == asked)  # type: ignore[misc]
        if answers:
            hits = [mostly(answer, args.to) for answer in answers]
            low, high = clustered_interval(hits, prompts)
            share = sum(hits) / len(hits)
            yield row(RECIPE, found.arm, f"answers in {args.to}", f"{name}, {how}", share, low, high, len(hits))


def mostly(answer: str, code: str) -> bool:
    """Whether most letters of the first line are of the language's scripts."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    counts = script_counts(line)
    return sum(counts.get(script, 0) for script in get_language(code).scripts) > sum(counts.values()) / 2


if __name__ == "__main__":
    main()
