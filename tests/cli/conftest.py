"""What the tests of the measure command read: a file of responses, and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measure_cases import RESPONSES, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


@pytest.fixture
def responses(tmp_path: Path) -> Any:
    return write(tmp_path / "responses.jsonl", RESPONSES)


@pytest.fixture
def model_folder(tmp_path: Path) -> Any:
    """A random model over a few Latin letters and one Chinese character."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<user>", *"abcdef", "是"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", additional_special_tokens=["<user>"]
    )
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
