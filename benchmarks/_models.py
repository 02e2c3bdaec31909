"""Random Qwen3 models by size, and what a trainer wants beside one: a tokenizer, and features."""

# D model width

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance

# Name → width, blocks, vocabulary. Named by their parameters, embeddings counted once.
SIZES = {
    "0.4M": (64, 2, 4096),
    "4M": (256, 4, 4096),
    "40M": (512, 10, 16384),
    "150M": (768, 16, 32768),
    "500M": (1024, 28, 151936),
    "1.7B": (2048, 28, 151936),
    "8B": (4096, 36, 151936),
}
HEAD = 64
GROUP, PROMPT = 8, 16  # answers to a prompt, and its tokens


def group_shape(size: str, length: int) -> str:
    """The size of a case in which a group of answers is generated, for a table."""
    return f"{size}, {GROUP} answers of {length} tokens"


def qwen3(size: str, **changes: Any) -> Any:
    width, blocks, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = Qwen3Config(
        **{
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": max(1, width // HEAD),
            "num_key_value_heads": max(1, width // HEAD // 2),
            "head_dim": HEAD,
            "eos_token_id": None,  # so that every answer is as long as the others
            "bos_token_id": None,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            **changes,
        }
    )
    return Qwen3ForCausalLM(config)


def tokenizer(vocabulary: int, foreign: str = "w") -> PreTrainedTokenizerFast:
    """`w1 w2 …`: one word for each id but that of padding, which also stands for an end that never comes.

    Every sixth word from the 4096th on begins with `foreign` instead, so that a vocabulary holds a language's tokens.
    """
    names = ((foreign if number >= 4096 and number % 6 == 0 else "w", number) for number in range(1, vocabulary))
    words = ["<pad>", *(f"{name}{number}" for name, number in names)]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<pad>")


def features(
    width: int, blocks: int, layers: Sequence[int], count: int, target: str, languages: Sequence[str] = ()
) -> FeatureSet:
    """`count` random features of `target` in each layer, with baselines for `languages`."""
    torch.manual_seed(1)
    found = tuple(
        LayerFeatures(
            layer=layer,
            ids=tuple(range(count)),
            targets=(target,) * count,
            encoder=torch.randn(count, width) / width**0.5,
            bias=torch.zeros(count),
            direction=torch.randn(count, width) / width**0.5,
            score=torch.ones(count),
            typical=torch.ones(count),
            baselines={code: torch.zeros(count) for code in languages},
            activations={},
        )
        for layer in layers
    )
    return FeatureSet(found, Provenance("random", width, blocks, "random", {}, "", "random"))
