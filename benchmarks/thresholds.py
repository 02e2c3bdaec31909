"""How often a feature set's thresholds disagree with the SAE about which features fire.

    python benchmarks/thresholds.py --model models/gemma3-270m-cut --sae SAES --layers 16 17 \
        --texts en=en.jsonl zh=zh.jsonl ru=ru.jsonl ko=ko.jsonl --limit 100

Discovers language features, and random features as the control. Discovery chooses each threshold on a sample of tokens
and measures its disagreement with the SAE on other tokens. The same number of random features is drawn among those that
fire at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import _rows
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_posttrain import FeatureSet, discover_language_features
from sae_posttrain.texts import load_texts

WAYS: tuple[Literal["monolinguality", "random"], ...] = ("monolinguality", "random")


@dataclass(frozen=True)
class Disagreement:
    """One feature's threshold, and the share of tokens on which only the threshold or only the SAE says that it fires.

    Args:
        disagreement: among the tokens on which at least one of the two says so. 1 for a feature that never fired there.
    """

    model: str
    chosen_by: str
    layer: int
    feature: int
    language: str
    typical: float
    threshold: float
    disagreement: float


def rows_of(model: str, chosen_by: str, features: FeatureSet) -> Iterator[Disagreement]:
    for layer in features.layers:
        assert layer.threshold is not None
        assert layer.disagreement is not None
        numbers = torch.stack([layer.typical, layer.threshold, layer.disagreement], dim=1).tolist()
        for feature, language, three in zip(layer.ids, layer.targets, numbers, strict=True):
            yield Disagreement(model, chosen_by, layer.layer, feature, language, *(round(one, 4) for one in three))


def summary(rows: list[Disagreement]) -> str:
    """One line for each way of choosing and layer: mean, median and largest disagreement."""
    lines = []
    for chosen_by, layer in dict.fromkeys((row.chosen_by, row.layer) for row in rows):
        shares = sorted(row.disagreement for row in rows if (row.chosen_by, row.layer) == (chosen_by, layer))
        mean, median = sum(shares) / len(shares), shares[len(shares) // 2]
        lines.append(
            f"{chosen_by}, layer {layer}: {len(shares)} features, mean {mean:.1%}, median {median:.1%}, "
            f"{shares[0]:.1%} to {shares[-1]:.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--texts", nargs="+", required=True, metavar="CODE=FILE")
    parser.add_argument("--limit", type=int, default=100, help="texts of each language (default: %(default)s)")
    parser.add_argument("--top", type=int, default=8, help="features per language and layer (default: %(default)s)")
    args = parser.parse_args()
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(args.model).eval(),
        AutoTokenizer.from_pretrained(args.model),
    )
    texts = {code: load_texts(file, limit=args.limit) for code, file in (item.split("=", 1) for item in args.texts)}
    rows: list[Disagreement] = []
    for select in WAYS:
        features = discover_language_features(
            model, tokenizer, args.sae, texts, layers=args.layers, top=args.top, select=select, max_length=256
        )
        rows += rows_of(Path(args.model).name, select, features)
    print(summary(rows))
    print(_rows.write("thresholds", rows))


if __name__ == "__main__":
    main()
