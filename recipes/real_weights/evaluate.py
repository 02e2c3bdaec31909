"""Measure arms of the code-switching experiment on held-out answers, beside plain SFT of the same seed.

python recipes/real_weights/evaluate.py --runs runs/sft-0 runs/sasft-zh-0 --against runs/sft-0 \
    --texts real_weights/texts --results real_weights.csv
A folder of --runs is one that arm.py wrote, or a model itself: the arm `base`. What was measured is kept in each folder
(in --results' folder for a model), so that a second call only compares. An arm with several seeds is compared seed by
seed, and with all its seeds together.
"""

# B batch, S sequence, D model width, N positions, V vocabulary

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import answer_logits  # type: ignore[import-not-found]
from result_rows import (  # type: ignore[import-not-found]
    COLUMNS,
    RESAMPLES,
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
from torch.nn.functional import cross_entropy

from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.languages import get_language
from sae_posttrain.metrics.expectation import ANY, ExpectedSwitch, ExpectedSwitchReport, expected_switch_report
from sae_posttrain.metrics.expected_comparison import compare_expected

RECIPE = "switching"


@dataclass(frozen=True)
class Measured:
    """What one run, or several seeds of an arm together, do on the held-out answers.

    Args:
        loss: of each answer, the summed cross-entropy in nats and the number of tokens.
        switches: by top_p, of each answer the probability of leaving for each script.
        into: the scripts to report. Default: those of the languages, but for Latin, which may stand in any text.
    """

    arm: Arm
    languages: list[str]
    loss: list[tuple[float, int]]
    switches: dict[float, list[ExpectedSwitch]]
    into: list[str] | None = None

    def report(self, top_p: float) -> ExpectedSwitchReport:
        """Intervals draw whole texts, with the answers of all seeds."""
        return expected_switch_report(self.switches[top_p], resamples=RESAMPLES)

    def of(self, codes: Sequence[str]) -> Measured:
        """What was measured on the answers in these languages."""
        switches = {top_p: [one for one in ones if one.language in codes] for top_p, ones in self.switches.items()}
        loss = [pair for pair, code in zip(self.loss, self.languages, strict=True) if code in codes]
        return Measured(self.arm, [code for code in self.languages if code in codes], loss, switches, scripts(self))


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_runs(parser, RECIPE, required=True)
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.9], help="default: %(default)s")
    parser.add_argument("--skip", type=int, default=0, help="held-out answers of each language to pass over first")
    parser.add_argument("--per-language", type=int, default=40, help="held-out answers (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens read of each answer (default: %(default)s)")
    parser.add_argument("--languages", nargs="+", help="compare on the answers in these languages (default: all)")
    parser.add_argument("--batch-size", type=int, default=16, help="answers at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    rows = held_out(args.texts / "held_out.jsonl", args.per_language, args.skip)
    against = [measured(run, rows, args) for run in args.against]
    found = [measured(run, rows, args) for run in finished_runs(args.runs) if run not in args.against]
    if args.languages:
        against, found = ([one.of(args.languages) for one in ones] for ones in (against, found))
    written: list[dict[str, Any]] = []
    for one, other in compared(found, against, together):
        lines = [*own_rows(one), *(compared_rows(one, other) if other else [])]
        replace_rows(args.results, [{**line, "recipe": args.recipe} for line in lines])
        written += lines
        for line in lines:
            print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def together(arm: Arm, group: Sequence[Measured]) -> Measured:
    """The seeds of one arm as one: a text that several have measured counts as one text."""
    switches = {top_p: [answer for one in group for answer in one.switches[top_p]] for top_p in group[0].switches}
    # The mean over seeds, text by text: the interval then draws texts.
    sums = [(sum(nats for nats, _ in ones), ones[0][1]) for ones in zip(*(one.loss for one in group), strict=True)]
    loss = [(nats / len(group), count) for nats, count in sums]
    return Measured(arm, group[0].languages, loss, switches, group[0].into)


def measured(run: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> Measured:
    """What is kept of an earlier call on the same texts, or measured now."""
    arm = read_arm(run)
    settings = {name: getattr(args, name) for name in ("top_p", "per_language", "max_tokens", "dtype", "skip")}
    folder = run if arm.base else args.results.parent
    kept = folder / f"evaluation-{run.name}-{args.skip}-{args.per_language}.json"
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values.pop("settings") == settings:
            values["switches"] = {
                float(top_p): [ExpectedSwitch(**one) for one in ones] for top_p, ones in values["switches"].items()
            }
            return Measured(**{**values, "arm": Arm(**values["arm"])})
    model, tokenizer = load_run(run, args.dtype)
    found = Measured(
        arm=arm,
        languages=[row["language"] for row in rows],
        loss=list(losses(model, tokenizer, rows, args.max_tokens, args.batch_size)),
        switches=leaving(model, tokenizer, rows, args),
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({**asdict(found), "settings": settings}), encoding="utf-8")
    return found


def leaving(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], args: argparse.Namespace
) -> dict[float, list[ExpectedSwitch]]:
    """By top_p, of each held-out answer the probability that the model, led along it, leaves for each script."""
    found = switch_probabilities(
        model,
        tokenizer,
        [row["prompt"] for row in rows],
        [row["completion"] for row in rows],
        [row["language"] for row in rows],
        settings=[Setting(1.0, top_p) for top_p in args.top_p],
        max_tokens=args.max_tokens,
        batch_size=args.batch_size,
    )
    return {setting.top_p: [one for one in ones if one is not None] for setting, ones in found.items()}


def losses(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], max_tokens: int, batch_size: int
) -> Iterator[tuple[float, int]]:
    """Of each held-out answer, given its prompt: the summed cross-entropy in nats, and the number of tokens."""
    for logits_NV, answer_N in answer_logits(model, tokenizer, rows, max_tokens, batch_size):
        yield float(cross_entropy(logits_NV, answer_N, reduction="sum")), len(answer_N)


def own_rows(found: Measured) -> Iterator[dict[str, Any]]:
    """Held-out loss, over all and by language, and the probability of leaving by script and top_p."""
    for code in ("all", *dict.fromkeys(found.languages)):
        pairs = [pair for pair, own in zip(found.loss, found.languages, strict=True) if code in ("all", own)]
        value, low, high = ratio_interval(np.array(pairs))
        yield row(RECIPE, found.arm, "held-out loss", code, value, low, high, sum(count for _, count in pairs))
    for top_p in found.switches:
        report = found.report(top_p)
        means = {script: report.pairs["all", script] for script in scripts(found)}
        for script, mean in {ANY: report.overall, **means}.items():
            setting = f"into {script}, top_p {top_p:g}"
            yield row(RECIPE, found.arm, "probability of leaving", setting, mean.rate, mean.low, mean.high, mean.total)


def compared_rows(found: Measured, against: Measured) -> Iterator[dict[str, Any]]:
    """Changes relative to another run, paired by text."""
    for code in ("all", *dict.fromkeys(found.languages)):
        rows = [
            (*pair, *other)
            for pair, other, own in zip(found.loss, against.loss, found.languages, strict=True)
            if code in ("all", own)
        ]
        value, low, high = ratio_interval(np.array(rows))
        yield row(
            RECIPE, found.arm, f"change of held-out loss against {against.arm.arm}", code, value, low, high, len(rows)
        )
    for top_p in found.switches:
        comparison = compare_expected(found.report(top_p), against.report(top_p), resamples=RESAMPLES)
        for one in comparison.differences:
            if one.change is not None and one.into in (ANY, *scripts(found)):
                setting = f"into {one.into}, top_p {top_p:g}"
                metric = f"change of leaving against {against.arm.arm}"
                yield row(RECIPE, found.arm, metric, setting, one.change, one.change_low, one.change_high, one.prompts)


def scripts(found: Measured) -> list[str]:
    """The scripts that are reported."""
    return found.into or sorted({one for code in found.languages for one in get_language(code).scripts} - {"Latn"})


if __name__ == "__main__":
    main()
