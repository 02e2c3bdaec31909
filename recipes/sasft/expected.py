"""How often answers would switch, from the probabilities a model sampled them with: for rates too low to count well.

python recipes/sasft/expected.py --suppress zh --runs runs/sft-0 runs/zh-sasft-0 --features runs/zh-sasft-0
With --corpus CORPUS every run is asked about the same text: real held-out answers instead of its own.
"""

# B batch, S sequence, V vocabulary, F features of one layer

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import RecipeArguments, split_corpus, split_paragraph  # type: ignore[import-not-found]
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain import FeatureSet
from sae_posttrain.languages import get_language
from sae_posttrain.residual import capture
from sae_posttrain.training.sasft.segments import ScriptIdentifier

ANSWER_TOKENS = 64  # as max_new_tokens in mini.yaml


@dataclass
class Sums:
    """Over the positions of answers sampled with one top_p, up to and with the first switch."""

    by_prompt: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    positions: int = 0
    prone: int = 0  # positions whose nucleus holds the beginning of a switch
    part: float = (
        0.0  # the same for tokens that are only the beginning of a character, which may or may not be finished
    )
    excess: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    excess_prone: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def row(self) -> dict[str, str]:
        rate, low, high = interval(list(self.by_prompt.values()))
        row = {"expected": rate, "low": low, "high": high, "prone": self.prone / self.positions}
        row["parts_of_characters"] = self.part / (sum(map(len, self.by_prompt.values())))
        for baseline, total in self.excess.items():
            row[f"{baseline}_excess"] = total / self.positions
            row[f"{baseline}_at_prone"] = self.excess_prone[baseline] / max(1, self.prone)
            row[f"{baseline}_share_on_prone"] = self.excess_prone[baseline] / max(total, 1e-9)
        return {name: f"{value:.5f}" for name, value in row.items()}


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
    real = list(real_answers(args.corpus, others, args.top_p)) if args.corpus else None
    for run in args.runs:
        rows = real or [row for row in own_answers(run, args.top_p) if row["language"] != args.suppress]
        for nucleus_size, sums in measure(run, args.suppress, rows, features).items():
            row = {"run": Path(run).name, "suppress": args.suppress, "top_p": str(nucleus_size), **sums.row()}
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            if args.results:
                append(Path(args.results), row)


@torch.no_grad()
def measure(run: str, target: str, answers: Sequence[dict[str, Any]], features: FeatureSet | None) -> dict[float, Sums]:
    """By top_p, for answers in other languages.

    The probability of a switch, summed over an answer's positions up to its first switch, has the rate of switching as
    its mean, and varies far less than the switch itself. A switch is here a token that holds a character of the script:
    one that only begins a character is listed apart, since the answers' text does not keep those left unfinished.
    """
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run).eval()
    into_V, part_V = target_tokens(tokenizer, target)
    found: dict[float, Sums] = defaultdict(Sums)
    layers = [layer.layer for layer in features.layers] if features else []
    for rows, ids_BS, answer_BS in batches(answers, tokenizer):
        with capture(model, layers) as residuals:
            logits_BSV = model(ids_BS).logits
        for index, row in enumerate(rows):
            place_S = answer_BS[index].nonzero().flatten() - 1  # position t speaks of token t + 1
            switched_S = into_V[ids_BS[index, place_S + 1]].nonzero().flatten()
            place_S = place_S[: int(switched_S[0]) + 1] if len(switched_S) else place_S
            sampled_SV = nucleus(logits_BSV[index, place_S].softmax(-1), row["top_p"])
            switch_S = (sampled_SV * into_V).sum(-1)
            prone_S = switch_S > 0
            sums = found[row["top_p"]]
            sums.by_prompt[row["prompt"]].append(float(switch_S.sum()))
            sums.positions += len(place_S)
            sums.prone += int(prone_S.sum())
            sums.part += float(sampled_SV[:, part_V].sum())
            for layer in features.layers if features else ():
                pre_SF = residuals[layer.layer][index, place_S] @ layer.encoder.T + layer.bias
                for baseline, floor_F in (("mean", layer.baselines[row["language"]]), ("zero", torch.zeros(()))):
                    excess_S = (pre_SF - floor_F).relu().mean(-1)
                    sums.excess[baseline] += float(excess_S.sum())
                    sums.excess_prone[baseline] += float(excess_S[prone_S].sum())
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


def batches(
    rows: Sequence[dict[str, Any]], tokenizer: Any, size: int = 64
) -> Iterator[tuple[list[dict[str, Any]], Tensor, Tensor]]:
    """Answers, their prompts' and own token ids `(B, S)`, and which of these are the answers'."""
    encoded = []
    for row in rows:
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        # An answer also samples its end; the text alone does not say whether it came, so it is left out.
        answer_ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"][:ANSWER_TOKENS]
        encoded.append((row, prompt_ids, answer_ids))
    encoded.sort(key=lambda entry: len(entry[1]) + len(entry[2]))
    for start in range(0, len(encoded), size):
        batch = encoded[start : start + size]
        length = max(len(prompt) + len(answer) for _, prompt, answer in batch)
        ids_BS = torch.zeros(len(batch), length, dtype=torch.long)
        answer_BS = torch.zeros(len(batch), length, dtype=torch.bool)
        for index, (_, prompt, answer) in enumerate(batch):
            end = len(prompt) + len(answer)
            ids_BS[index, :end] = torch.tensor(prompt + answer)
            answer_BS[index, len(prompt) : end] = True
        yield [row for row, _, _ in batch], ids_BS, answer_BS


def nucleus(probability_SV: Tensor, top_p: float) -> Tensor:
    """The distribution that sampling with this `top_p` draws from."""
    if top_p >= 1:
        return probability_SV
    sorted_SV, order_SV = probability_SV.sort(-1, descending=True)
    kept_SV = sorted_SV * (sorted_SV.cumsum(-1) - sorted_SV < top_p)
    return torch.zeros_like(probability_SV).scatter(-1, order_SV, kept_SV / kept_SV.sum(-1, keepdim=True))


def target_tokens(tokenizer: Any, target: str) -> tuple[Tensor, Tensor]:
    """`(V,)` which tokens hold a character of the target's script, and which only begin one."""
    script_V = ScriptIdentifier(tokenizer, [target]).script_V
    into_V = script_V < len(get_language(target).scripts)
    part_V = torch.tensor([not tokenizer.decode([index]).strip(" \ufffd") for index in range(len(into_V))])
    return into_V & ~part_V, into_V & part_V


def interval(by_prompt: Sequence[Sequence[float]], resamples: int = 10_000) -> tuple[float, float, float]:
    """Mean over answers and its 95% bootstrap interval, drawing whole prompts."""
    sums, sizes = np.array([[sum(values), len(values)] for values in by_prompt]).T
    drawn = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


def append(path: Path, row: dict[str, str]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
