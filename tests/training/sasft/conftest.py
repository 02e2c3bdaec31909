"""A tiny Qwen3 with a tokenizer in three scripts, hand-made features for it, and a dataset with a language column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain import FeatureSet
from sae_posttrain.feature_set import LayerFeatures, Provenance

from .routes import World

WORDS = {
    "en": ["the", "cat", "sees", "a", "small", "house", "and", "sings", "today"],
    "zh": ["猫", "看见", "一个", "小", "房子", "并且", "今天", "唱歌"],
    "ru": ["кошка", "видит", "маленький", "дом", "и", "поёт", "сегодня", "там"],
}
LANGUAGES = tuple(WORDS)
LAYERS, WIDTH, NUM_LAYERS = (1, 2), 16, 3


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<unk>", *(word for language in LANGUAGES for word in WORDS[language])]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


@pytest.fixture
def make_model(tokenizer: PreTrainedTokenizerFast) -> Callable[[], Qwen3ForCausalLM]:
    """Every call gives the same weights."""

    def make(**changes: Any) -> Qwen3ForCausalLM:
        settings = {
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
        }
        torch.manual_seed(1)
        return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))

    return make


@pytest.fixture(scope="session")
def features() -> FeatureSet:
    """Two features for zh and one for ru in each of two layers; baselines differ by language and feature."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = tuple(
        LayerFeatures(
            layer=layer,
            ids=(5, 9, 2),
            targets=("zh", "zh", "ru"),
            encoder=draw(3, WIDTH),
            bias=draw(3),
            direction=draw(3, WIDTH),
            score=draw(3).abs(),
            typical=draw(3).abs() + 0.5,
            baselines={code: draw(3) for code in LANGUAGES},
            activations={code: draw(3).abs() for code in LANGUAGES},
        )
        for layer in LAYERS
    )
    provenance = Provenance("tiny", WIDTH, NUM_LAYERS, "made-by-hand", {}, "", "monolinguality")
    return FeatureSet(layers, provenance)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """Eight prompt-completion rows of uneven length, in three languages."""
    generator = torch.Generator().manual_seed(4)

    def sentence(language: str, length: int) -> str:
        picks = torch.randint(len(WORDS[language]), (length,), generator=generator).tolist()
        return " ".join(WORDS[language][pick] for pick in picks)

    return [
        {"prompt": sentence(code, 3), "completion": " " + sentence(code, length), "language": code}
        for code, length in zip(
            ["en", "zh", "ru", "en", "en", "ru", "zh", "en"], (3, 9, 5, 12, 2, 7, 4, 6), strict=True
        )
    ]


@pytest.fixture
def dataset(rows: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list(rows)


@pytest.fixture
def world(
    make_model: Callable[..., Qwen3ForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    features: FeatureSet,
    dataset: Dataset,
    tmp_path: Path,
) -> World:
    return World(make_model, tokenizer, features, dataset, tmp_path)
