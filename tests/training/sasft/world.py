"""A tiny Qwen3 with a tokenizer in three scripts, hand-made features for it, and a dataset with a language column.

Plain functions, so that the processes of a distributed test can build the same world.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from made_features import hand_made_features
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain import FeatureSet

WORDS = {
    "en": ["the", "cat", "sees", "a", "small", "house", "and", "sings", "today"],
    "zh": ["猫", "看见", "一个", "小", "房子", "并且", "今天", "唱歌"],
    "ru": ["кошка", "видит", "маленький", "дом", "и", "поёт", "сегодня", "там"],
}
LANGUAGES = tuple(WORDS)
LAYERS, WIDTH, NUM_LAYERS = (1, 2), 16, 3

Route = Callable[..., Any]
"""Makes a trainer with SASFT, or without; `routes.py` and `plain.py` have them."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<unk>", *(word for language in LANGUAGES for word in WORDS[language])]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Qwen3ForCausalLM:
    """Every call gives the same weights."""
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


def build_features() -> FeatureSet:
    return hand_made_features(LAYERS, WIDTH, NUM_LAYERS, LANGUAGES)


def build_rows() -> list[dict[str, str]]:
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


@dataclass(frozen=True)
class World:
    """Everything a run needs; `run` makes a trainer that takes one step, in which SGD with rate 1 and no clipping
    moves every weight by minus its gradient."""

    tokenizer: PreTrainedTokenizerFast
    features: FeatureSet
    dataset: Dataset
    folder: Path

    def make_model(self, **changes: Any) -> Qwen3ForCausalLM:
        return build_model(self.tokenizer, **changes)

    @property
    def tokens(self) -> dict[str, list[int]]:
        """Ids of each language's words."""
        return {code: self.tokenizer.convert_tokens_to_ids(words) for code, words in WORDS.items()}

    def run(
        self,
        route: Route,
        *,
        suppress: Sequence[str] = ("zh",),
        weight: Any = 1.0,
        model: nn.Module | None = None,
        features: FeatureSet | None = None,
        dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        **settings: Any,
    ) -> Any:
        # What goes to the trainer itself, not into its arguments.
        direct = {name: settings.pop(name) for name in ("compute_loss_func",) if name in settings}
        return route(
            model if model is not None else self.make_model(),
            features or self.features,
            suppress,
            weight,
            args=self.arguments(**settings),
            train_dataset=dataset or self.dataset,
            eval_dataset=eval_dataset,
            processing_class=self.tokenizer,
            **direct,
        )

    def arguments(self, **settings: Any) -> dict[str, Any]:
        return {
            "output_dir": str(self.folder),
            "optim": "sgd",
            "learning_rate": 1.0,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "weight_decay": 0.0,
            "max_steps": 1,
            "per_device_train_batch_size": 8,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
        } | settings


def build_world(folder: Path) -> World:
    return World(build_tokenizer(), build_features(), Dataset.from_list(build_rows()), folder)
