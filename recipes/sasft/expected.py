"""How often answers would switch, from the probabilities a model sampled them with: for rates too low to count well.

python recipes/sasft/expected.py --suppress zh --runs runs/sft-0 runs/zh-sasft-0 --features runs/zh-sasft-0
With --corpus CORPUS every run is asked about the same text: real held-out answers instead of its own. The same figures
for any model: `sae-posttrain measure code-switching --expected`.
"""

# S tokens of an answer, F features of one layer

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from run import RecipeArguments, split_corpus, split_paragraph  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.expected.columns import ScriptColumns
from sae_posttrain.expected.distributions import hidden_states, logits_of
from sae_posttrain.languages import get_language
from sae_posttrain.metrics import ExpectedSwitch, expected_switch_report
from sae_posttrain.residual import capture
from sae_posttrain.sampling import encode_prompts

ANSWER_TOKENS = 64  # as max_new_tokens in mini.yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suppress", required=True, help="the language, by code")
    parser.add_argument("--runs", nargs="+", required=True, help="output folders of run.py, without --use_peft")
    parser.add_argument("--features", help="a feature set: also where its features exceed their baselines")
    parser.add_argument("--corpus", help="the recipe's folder of texts: read real answers instead of the runs' own")
    parser.add_argument("--languages", nargs="+", default=["en", "zh", "ru", "ko"], help="of the corpus")
    parser.add_argument("--top_p", type=float, nargs="+", default=[0.8, 0.9], help="which of the run's")
    parser.add_argument("--results", help="CSV to append to")
    args = parser.parse_args()
    features = FeatureSet.load(args.features).select([args.suppress]) if args.features else None
    others = [code for code in args.languages if code != args.suppress]
    for run in args.runs:
        rows = list(real_answers(args.corpus, others, args.top_p) if args.corpus else own_answers(run, args.top_p))
        rows = [row for row in rows if row["language"] != args.suppress]
        for top_p, found in measure(run, args.suppress, rows, features, sampled=not args.corpus).items():
            row = {"run": Path(run).name, "suppress": args.suppress, "top_p": str(top_p)}
            row |= {name: f"{value:.5f}" for name, value in found.items()}
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            if args.results:
                append(Path(args.results), row)


def measure(
    run: str, target: str, answers: Sequence[dict[str, Any]], features: FeatureSet | None, *, sampled: bool
) -> dict[float, dict[str, float]]:
    """By top_p, for answers in other languages.

    A switch is here a token that holds a whole character of the script. What lies on tokens that only begin one is
    listed apart, since the answers' text does not keep those left unfinished.
    """
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run).eval()
    found = {}
    for top_p in dict.fromkeys(row["top_p"] for row in answers):
        rows = [row for row in answers if row["top_p"] == top_p]
        setting = Setting(1.0, top_p)
        probabilities = switch_probabilities(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            [row["response"] for row in rows],
            [row["language"] for row in rows],
            settings=[setting],
            sampled=sampled,
            to=target,
            chat=True,
            max_tokens=ANSWER_TOKENS,
            batch_size=64,
            progress=False,
        )[setting]
        whole = [ExpectedSwitch(one.language, one.cluster, one.any - one.begun, {}) for one in probabilities if one]
        mean = expected_switch_report(whole, resamples=10_000).overall
        begun = sum(one.begun for one in probabilities if one) / len(whole)
        found[top_p] = {"expected": mean.rate, "low": mean.low, "high": mean.high, "parts_of_characters": begun}
        if features is not None:
            found[top_p] |= penalty_where_switches_begin(model, tokenizer, target, rows, features, setting)
    return found


@torch.no_grad()
def penalty_where_switches_begin(
    model: Any, tokenizer: Any, target: str, rows: Sequence[dict[str, Any]], features: FeatureSet, setting: Setting
) -> dict[str, float]:
    """The features' excess over their baselines, at all positions and where the nucleus holds the target's script."""
    scripts = frozenset(get_language(target).scripts)
    columns = ScriptColumns(tokenizer, [scripts], model.config.vocab_size)
    positions, prone_positions = 0, 0
    excess: dict[str, float] = defaultdict(float)
    excess_prone: dict[str, float] = defaultdict(float)
    for row in rows:
        (prompt,) = encode_prompts(tokenizer, [row["prompt"]], chat=True)
        answer = tokenizer(row["response"], add_special_tokens=False)["input_ids"][:ANSWER_TOKENS]
        switched = columns.held(answer)[:, columns.whole(scripts)].nonzero().flatten().tolist()
        length = switched[0] + 1 if switched else len(answer)  # up to and with the first switch
        place = slice(len(prompt) - 1, len(prompt) - 1 + length)
        with capture(model, [layer.layer for layer in features.layers]) as residuals:
            hidden_SD = hidden_states(model, [prompt + answer])[0, place]
        masses = [columns.masses(setting.probabilities(logits_NV)) for logits_NV in logits_of(model, hidden_SD)]
        prone_S = torch.cat(masses)[:, columns.whole(scripts)] > 0
        positions, prone_positions = positions + length, prone_positions + int(prone_S.sum())
        for layer in features.layers:
            pre_SF = residuals[layer.layer][0, place] @ layer.encoder.T + layer.bias
            for baseline, floor_F in (("mean", layer.baselines[row["language"]]), ("zero", torch.zeros(()))):
                excess_S = (pre_SF - floor_F).relu().mean(-1)
                excess[baseline] += float(excess_S.sum())
                excess_prone[baseline] += float(excess_S[prone_S].sum())
    found = {"prone": prone_positions / positions}
    for baseline, total in excess.items():
        found[f"{baseline}_excess"] = total / positions
        found[f"{baseline}_at_prone"] = excess_prone[baseline] / max(1, prone_positions)
        found[f"{baseline}_share_on_prone"] = excess_prone[baseline] / max(total, 1e-9)
    return found


def own_answers(run: str, top_p: Sequence[float]) -> Iterator[dict[str, Any]]:
    for line in (Path(run) / "responses.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["top_p"] in top_p:
            yield row


def real_answers(
    corpus: str, languages: list[str], top_p: Sequence[float], count: int = 250
) -> Iterator[dict[str, Any]]:
    """The ends of held-out paragraphs: not those that the recipe's loss is measured on."""
    _, held_out = split_corpus(RecipeArguments(corpus=corpus, languages=languages))
    for code in languages:
        for text in held_out[code][-count:]:
            prompt, answer = split_paragraph(text)
            yield from ({"language": code, "prompt": prompt, "response": answer, "top_p": one} for one in top_p)


def append(path: Path, row: dict[str, str]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
