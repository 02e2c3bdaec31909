"""Random models of the real architectures, small enough for a test: four blocks, sixteen wide."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as tf
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
}


def make(name: str = "Qwen3ForCausalLM", seed: int = 0) -> tf.PreTrainedModel:
    """A random model in evaluation mode: the same one each time."""
    torch.manual_seed(seed)
    return MODELS[name][0]().eval()


def token_ids(rows: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    """Random token ids `(rows, length)` that are neither special nor images."""
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(seed))
