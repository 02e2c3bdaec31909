"""How fast texts are read for discovery: all layers in one pass, against one pass of the model for each layer.

    python benchmarks/discovery_speed.py [--quick]

A random Qwen3 of 28 blocks with dictionaries sixteen times its width, as the published ones are, on one thread of the
CPU. The published way is written from its description: each layer has its own pass of the whole model, head and all,
and every pre-activation goes to the host before anything is added up. Both must give the same means, and rank features
alike.
"""

# B batch, S sequence, N tokens, D model width, L languages, K dictionary size

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import _rows
import torch
from _models import qwen3, tokenizer
from _timing import Timing, Way, growing, interleaved, table
from torch import Tensor

from sae_posttrain import SparseAutoencoder, discover_language_features
from sae_posttrain.discovery.monolinguality import monolinguality
from sae_posttrain.discovery.selection import highest
from sae_posttrain.discovery.statistics import collect_statistics
from sae_posttrain.residual import decoder_blocks
from sae_posttrain.sae import TopK

BLOCKS, D, VOCABULARY = 28, 256, 4096
FOLD, ACTIVE = 16, 50
LENGTH, BATCH = 128, 2
FEW = 1  # texts of each language
LANGUAGES = ("en", "ko", "ru", "zh")
RANKED = 10  # features of each language and layer

Texts = Mapping[str, Sequence[str]]
Means = dict[int, dict[str, Tensor]]


def make_saes(layers: int, dictionary: int) -> dict[int, SparseAutoencoder]:
    torch.manual_seed(2)
    return {
        layer: SparseAutoencoder(
            encoder=torch.randn(dictionary, D) / D**0.5,
            bias=torch.zeros(dictionary),
            decoder=torch.zeros(1, D).expand(dictionary, D),
            decoder_bias=torch.zeros(D),
            activation=TopK(ACTIVE),
            layer=layer,
        )
        for layer in range(BLOCKS - layers, BLOCKS)
    }


def make_texts(count: int) -> dict[str, list[str]]:
    drawn = torch.randint(1, VOCABULARY, (len(LANGUAGES), count, LENGTH), generator=torch.Generator().manual_seed(3))
    return {
        code: [" ".join(f"w{number}" for number in row) for row in rows]
        for code, rows in zip(LANGUAGES, drawn.tolist(), strict=True)
    }


def in_one_pass(model: Any, words: Any, saes: Mapping[int, SparseAutoencoder], texts: Texts) -> Means:
    statistics = collect_statistics(model, words, saes, texts, batch_size=BATCH, max_length=LENGTH, progress=False)
    return {layer: {code: one.mean_activation for code, one in groups.items()} for layer, groups in statistics.items()}


@torch.no_grad()
def one_pass_per_layer(model: Any, words: Any, saes: Mapping[int, SparseAutoencoder], texts: Texts) -> Means:
    means: Means = {}
    for layer, sae in saes.items():
        means[layer] = {}
        for code, members in texts.items():
            kept: list[Tensor] = []
            for start in range(0, len(members), BATCH):
                ids_BS = words(members[start : start + BATCH], return_tensors="pt")["input_ids"]
                residual_BSD = residual_of(model, layer, ids_BS)
                kept.append(sae.pre_activations(residual_BSD[:, 1:].flatten(0, 1).float()).cpu())
            means[layer][code] = sae.activation(torch.cat(kept)).mean(0, dtype=torch.float64)
    return means


def residual_of(model: Any, layer: int, ids_BS: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = decoder_blocks(model)[layer].register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        model(input_ids=ids_BS, use_cache=False)
    finally:
        handle.remove()
    return kept[0]


def whole_discovery(model: Any, words: Any, saes: Mapping[int, SparseAutoencoder], texts: Texts) -> None:
    discover_language_features(
        model, words, saes, texts, layers=list(saes), batch_size=BATCH, max_length=LENGTH, progress=False
    )


def check_alike(ours: Means, theirs: Means) -> None:
    for layer, groups in ours.items():
        for code, mean_K in groups.items():
            torch.testing.assert_close(mean_K, theirs[layer][code], rtol=1e-4, atol=1e-5)
        if ranking(groups) != ranking(theirs[layer]):
            raise RuntimeError(f"The ways rank the features of layer {layer} otherwise.")


def ranking(groups: Mapping[str, Tensor]) -> dict[str, list[int]]:
    score_LK = monolinguality(torch.stack([groups[code] for code in LANGUAGES]))
    return {
        code: [choice.feature for choice in highest(score_K, code, RANKED, code)]
        for code, score_K in zip(LANGUAGES, score_LK, strict=True)
    }


def compared(model: Any, words: Any, rounds: int) -> list[Timing]:
    given = make_saes(BLOCKS, FOLD * D), make_texts(FEW)
    check_alike(in_one_pass(model, words, *given), one_pass_per_layer(model, words, *given))
    return interleaved(
        "discovery",
        {
            "all layers in one pass": partial(in_one_pass, model, words, *given),
            "discover_language_features": partial(whole_discovery, model, words, *given),
            "one pass per layer": partial(one_pass_per_layer, model, words, *given),
        },
        rounds=rounds,
        size=size_of(BLOCKS, FOLD * D, FEW),
        memory=True,
        work=(tokens_of(FEW), "tokens"),
    )


def grown(model: Any, words: Any, rounds: int) -> list[Timing]:
    """Ours alone: by layers, by dictionary, by texts."""
    dictionary, rows = FOLD * D, []
    for what, shapes in {
        "layers": [(layers, dictionary, FEW) for layers in (1, 7, 14, 28)],
        "dictionary": [(BLOCKS, times * dictionary, FEW) for times in (1, 4, 16)],
        "texts": [(BLOCKS, dictionary, times * FEW) for times in (1, 4, 16)],
    }.items():
        ways: dict[str, tuple[Way, float]] = {}
        for layers, size, texts in shapes:
            way = partial(in_one_pass, model, words, make_saes(layers, size), make_texts(texts))
            ways[size_of(layers, size, texts)] = way, tokens_of(texts)
        rows += growing("discovery, growth", f"one pass, by {what}", ways, unit="tokens", rounds=rounds, memory=True)
    return rows


def tokens_of(texts: int) -> int:
    return texts * len(LANGUAGES) * LENGTH


def size_of(layers: int, dictionary: int, texts: int) -> str:
    return f"{layers} of {BLOCKS} layers, {D} wide, {dictionary} features, {tokens_of(texts)} tokens"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds, and no growth; writes no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"num_hidden_layers": BLOCKS, "hidden_size": D, "intermediate_size": 3 * D, "vocab_size": VOCABULARY}
    model, words = qwen3("4M", **shape).eval(), tokenizer(VOCABULARY)
    timings = compared(model, words, 3 if args.quick else 5)
    if not args.quick:
        _rows.write("discovery_speed", timings)
        timings += grown(model, words, 3)
        print(_rows.write("discovery_speed", timings))
    print(table(timings))


if __name__ == "__main__":
    main()
