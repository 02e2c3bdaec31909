"""Random models of the real architectures, small enough for a test: four blocks, sixteen wide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

BLOCKS, WIDTH, VOCABULARY = 4, 16, 64

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LINEAR_ATTENTION = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 16,
}
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
IDS_IN_VOCABULARY = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62}


def qwen3_5_moe_text() -> dict[str, object]:
    dense = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    return {**dense, **EXPERTS, **LINEAR_ATTENTION, "shared_expert_intermediate_size": 8}


def gemma3_multimodal() -> tf.Gemma3ForConditionalGeneration:
    config = tf.Gemma3Config(
        text_config={**TEXT, "sliding_window": 8},
        vision_config=SIGLIP,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
        mm_tokens_per_image=4,
    )
    return tf.Gemma3ForConditionalGeneration(config)


def qwen3_5_config() -> tf.Qwen3_5Config:
    return tf.Qwen3_5Config(text_config={**TEXT, **LINEAR_ATTENTION}, vision_config=QWEN_VISION, **IDS_IN_VOCABULARY)


def qwen3_5_moe_config() -> tf.Qwen3_5MoeConfig:
    return tf.Qwen3_5MoeConfig(text_config=qwen3_5_moe_text(), vision_config=QWEN_VISION, **IDS_IN_VOCABULARY)


# Name → how to make it, and the path of its decoder's blocks.
MODELS: dict[str, tuple[Callable[[], tf.PreTrainedModel], str]] = {
    "Qwen3Model": (lambda: tf.Qwen3Model(tf.Qwen3Config(**TEXT)), "layers"),
    "Qwen3ForCausalLM": (lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**TEXT)), "model.layers"),
    "Qwen3MoeForCausalLM": (lambda: tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**TEXT, **EXPERTS)), "model.layers"),
    "Qwen3_5ForCausalLM": (
        lambda: tf.Qwen3_5ForCausalLM(tf.Qwen3_5TextConfig(**TEXT, **LINEAR_ATTENTION)),
        "model.layers",
    ),
    "Qwen3_5ForConditionalGeneration": (
        lambda: tf.Qwen3_5ForConditionalGeneration(qwen3_5_config()),
        "model.language_model.layers",
    ),
    "Qwen3_5MoeForCausalLM": (
        lambda: tf.Qwen3_5MoeForCausalLM(tf.Qwen3_5MoeTextConfig(**qwen3_5_moe_text())),
        "model.layers",
    ),
    "Qwen3_5MoeForConditionalGeneration": (
        lambda: tf.Qwen3_5MoeForConditionalGeneration(qwen3_5_moe_config()),
        "model.language_model.layers",
    ),
    "Gemma2ForCausalLM": (lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**TEXT, sliding_window=8)), "model.layers"),
    "Gemma3ForCausalLM": (lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**TEXT, sliding_window=8)), "model.layers"),
    "Gemma3ForConditionalGeneration": (gemma3_multimodal, "model.language_model.layers"),
    "LlamaForCausalLM": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT)), "model.layers"),
    "MistralForCausalLM": (lambda: tf.MistralForCausalLM(tf.MistralConfig(**TEXT, sliding_window=8)), "model.layers"),
}


def make(name: str = "Qwen3ForCausalLM", seed: int = 0) -> tf.PreTrainedModel:
    """A random model in evaluation mode: the same one each time."""
    torch.manual_seed(seed)
    return MODELS[name][0]().eval()


def token_ids(rows: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    """Random token ids `(rows, length)` that are neither special nor images."""
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(seed))


def word_tokenizer(texts: Iterable[str], *specials: str) -> tf.PreTrainedTokenizerFast:
    """One token per word of the texts, after the special ones: padding first, then perhaps the end."""
    words = [*specials, *sorted({word for text in texts for word in text.split()})]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=specials[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = dict(zip(("pad_token", "eos_token"), specials, strict=False))
    return tf.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def qwen3(vocab_size: int, seed: int = 0, **changes: Any) -> tf.Qwen3ForCausalLM:
    """A Qwen3 of this file's size, without a beginning or an end of its own."""
    torch.manual_seed(seed)
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**{**TEXT, **ends, "vocab_size": vocab_size, **changes}))


def write_saes(folder: Path, layers: Iterable[int], d_sae: int, width: int, seed: int = 0) -> Path:
    """Random autoencoders in the Qwen-Scope layout; k is for the folder's name to say."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d_sae, width), "W_dec": (width, d_sae), "b_enc": (d_sae,), "b_dec": (width,)}
    for layer in layers:
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        torch.save(tensors, folder / f"layer{layer}.sae.pt")
    return folder
