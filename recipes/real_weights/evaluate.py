"""Measure arms of the code-switching experiment on held-out answers, beside plain SFT of the same seed.

python recipes/real_weights/evaluate.py --runs runs/sft-0 runs/sasft-zh-0 --against runs/sft-0 \
    --texts real_weights/texts --results real_weights.csv
A folder of --runs is one that arm.py wrote, or a model itself: the arm `base`. What was measured is kept in each folder
(in --results' folder for a model), so that a second call only compares.
"""

# B batch, S sequence, D model width, N positions, V vocabulary

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arm import commit  # type: ignore[import-not-found]
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.expected.distributions import hidden_states, logits_of
from sae_posttrain.languages import get_language
from sae_posttrain.metrics.expectation import ANY, ExpectedSwitch, ExpectedSwitchReport, expected_switch_report
from sae_posttrain.metrics.expected_comparison import compare_expected
from sae_posttrain.texts import load_rows

COLUMNS = ("recipe", "model", "arm", "seed", "metric", "setting", "value", "low", "high", "n", "commit")
RECIPE = "code-switching"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Measured:
    """What one run does on the held-out answers.

    Args:
        loss: of each answer, the summed cross-entropy in nats and the number of tokens.
        switches: by top_p, of each answer the probability of leaving for each script.
    """

    arm: str
    seed: str
    model: str
    commit: str
    languages: list[str]
    loss: list[tuple[float, int]]
    switches: dict[float, list[ExpectedSwitch]]

    def report(self, top_p: float) -> ExpectedSwitchReport:
        return expected_switch_report(self.switches[top_p], resamples=RESAMPLES)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of arm.py; a model is `base`")
    parser.add_argument("--against", type=Path, help="the folder that the others are compared with")
    parser.add_argument("--texts", type=Path, required=True, help="folder that texts.py wrote")
    parser.add_argument("--results", type=Path, required=True, help="CSV; rows of the same arm and seed are replaced")
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.9], help="default: %(default)s")
    parser.add_argument("--per-language", type=int, default=40, help="held-out answers (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens read of each answer (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="answers at once (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of the model (default: %(default)s)")
    args = parser.parse_args(arguments)
    rows = held_out(args.texts / "held_out.jsonl", args.per_language)
    against = measured(args.against, rows, args) if args.against else None
    written: list[dict[str, Any]] = []
    for run in args.runs:
        found = measured(run, rows, args)
        lines = [*own_rows(found), *(compared_rows(found, against) if against and run != args.against else [])]
        replace_rows(args.results, lines)
        written += lines
        for line in lines:
            print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def held_out(path: Path, per_language: int) -> list[dict[str, Any]]:
    """The first rows of each language."""
    rows = load_rows(path)
    codes = dict.fromkeys(row["language"] for row in rows)
    return [row for code in codes for row in [one for one in rows if one["language"] == code][:per_language]]


def measured(run: Path, rows: list[dict[str, Any]], args: argparse.Namespace) -> Measured:
    """What is kept of an earlier call on the same texts, or measured now."""
    described = json.loads((run / "arm.json").read_text(encoding="utf-8")) if (run / "arm.json").exists() else {}
    settings = {
        "top_p": args.top_p,
        "per_language": args.per_language,
        "max_tokens": args.max_tokens,
        "dtype": args.dtype,
    }
    kept = (run if described else args.results.parent) / (f"evaluation-{run.name}.json")
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values.pop("settings") == settings:
            switches = {
                float(top_p): [ExpectedSwitch(**one) for one in ones] for top_p, ones in values["switches"].items()
            }
            return Measured(**{**values, "switches": switches})
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(described.get("base", run), dtype=getattr(torch, args.dtype))
    if described:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, run).merge_and_unload()
    model.eval()
    found = Measured(
        arm=described.get("label", "base"),
        seed=str(described.get("seed", "")),
        model=described.get("model", run.name),
        commit=described.get("commit") or commit(),
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
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        prompts = [tokenizer(row["prompt"])["input_ids"] for row in batch]
        answers = [tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:max_tokens] for row in batch]
        hidden_BSD = hidden_states(model, [p + a for p, a in zip(prompts, answers, strict=True)])
        for prompt, answer, hidden_SD in zip(prompts, answers, hidden_BSD, strict=True):
            places_ND = hidden_SD[len(prompt) - 1 : len(prompt) + len(answer) - 1]
            logits_NV = torch.cat(list(logits_of(model, places_ND)))
            yield float(cross_entropy(logits_NV, torch.tensor(answer), reduction="sum")), len(answer)


def own_rows(found: Measured) -> Iterator[dict[str, Any]]:
    """Held-out loss, over all and by language, and the probability of leaving by script and top_p."""
    for code in ("all", *dict.fromkeys(found.languages)):
        pairs = [pair for pair, own in zip(found.loss, found.languages, strict=True) if code in ("all", own)]
        value, low, high = ratio_interval(np.array(pairs))
        yield row(found, "held-out loss", code, value, low, high, sum(count for _, count in pairs))
    for top_p in found.switches:
        report = found.report(top_p)
        means = {script: report.pairs["all", script] for script in scripts(found)}
        for script, mean in {ANY: report.overall, **means}.items():
            setting = f"into {script}, top_p {top_p:g}"
            yield row(found, "probability of leaving", setting, mean.rate, mean.low, mean.high, mean.total)


def compared_rows(found: Measured, against: Measured) -> Iterator[dict[str, Any]]:
    """Changes relative to another run, paired by text."""
    for code in ("all", *dict.fromkeys(found.languages)):
        rows = [
            (*pair, *other)
            for pair, other, own in zip(found.loss, against.loss, found.languages, strict=True)
            if code in ("all", own)
        ]
        value, low, high = ratio_interval(np.array(rows))
        yield row(found, f"change of held-out loss against {against.arm}", code, value, low, high, len(rows))
    for top_p in found.switches:
        comparison = compare_expected(found.report(top_p), against.report(top_p), resamples=RESAMPLES)
        for one in comparison.differences:
            if one.change is not None and one.into in (ANY, *scripts(found)):
                setting = f"into {one.into}, top_p {top_p:g}"
                metric = f"change of leaving against {against.arm}"
                yield row(found, metric, setting, one.change, one.change_low, one.change_high, one.prompts)


def scripts(found: Measured) -> list[str]:
    """The scripts of the languages that are measured, but for Latin, which may stand in any text."""
    return sorted({script for code in found.languages for script in get_language(code).scripts} - {"Latn"})


def ratio_interval(values_X: np.ndarray) -> tuple[float, float, float]:
    """Mean per token `(texts, 2)`, or the relative change of one `(texts, 4)`, with a 95% bootstrap interval."""
    drawn_RX = np.random.default_rng(0).multinomial(
        len(values_X), np.full(len(values_X), 1 / len(values_X)), size=RESAMPLES
    ) @ values_X.astype(float)
    whole_X = values_X.sum(0)
    value, drawn_R = whole_X[0] / whole_X[1], drawn_RX[:, 0] / drawn_RX[:, 1]
    if len(whole_X) == 4:
        value, drawn_R = value / (whole_X[2] / whole_X[3]) - 1, drawn_R / (drawn_RX[:, 2] / drawn_RX[:, 3]) - 1
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return float(value), float(low), float(high)


def row(
    found: Measured, metric: str, setting: str, value: float, low: float | None, high: float | None, n: int
) -> dict[str, Any]:
    numbers = {"value": value, "low": low, "high": high}
    return {
        **{"recipe": RECIPE, "model": found.model, "arm": found.arm, "seed": found.seed},
        **{"metric": metric, "setting": setting},
        **{name: "" if number is None else f"{number:.6f}" for name, number in numbers.items()},
        **{"n": n, "commit": found.commit},
    }


def replace_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the CSV, in place of those that say the same of the same arm and seed."""

    def key(line: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(line[name]) for name in COLUMNS[:6])

    kept: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [line for line in csv.DictReader(file) if key(line) not in {key(line) for line in rows}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
