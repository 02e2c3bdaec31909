"""A tiny Gemma 3 as a GGUF file, written as llama.cpp converts one."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

WORDS = {
    "en": ["the", "cat", "sees", "a", "small", "house", "and", "sings", "today"],
    "zh": list("猫看见一个小房子今天唱歌"),
    "ru": ["кошка", "видит", "маленький", "дом", "и", "поёт", "сегодня", "там"],
    "ko": ["고양이가", "작은", "집을", "보고", "오늘", "노래한다", "그리고", "여기"],
}
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>"]
WIDTH, BLOCKS = 32, 3


def pieces() -> list[str]:
    """A SentencePiece vocabulary: bytes, whole words with all their beginnings, characters; and words of no corpus."""
    words = ["▁" + word for code in ("en", "ru", "ko") for word in WORDS[code]] + [
        "今天",
        "房子",
        "天气",
        "▁wolf",
        "▁لون",
    ]
    beginnings = {word[:length] for word in words for length in range(2, len(word) + 1)}
    letters = {letter for word in [*words, *WORDS["zh"]] for letter in word}
    return (
        [f"<0x{byte:02X}>" for byte in range(256)]
        + sorted(beginnings, key=lambda one: (len(one), one))
        + sorted(letters)
    )


def tiny_gemma3() -> Gemma3ForCausalLM:
    """A random model whose vocabulary is `SPECIAL` and `pieces()`."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(SPECIAL) + len(pieces()),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=512,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma3ForCausalLM(config).eval()


def write_gguf(model: Gemma3ForCausalLM, path: Path) -> None:
    """As llama.cpp converts a Gemma 3: norms plus 1; the matrices in Q8_0, whose values the model then takes over."""
    config = model.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    tokens = [*SPECIAL, *pieces()]
    kinds = [3] * len(SPECIAL) + [6 if token.startswith("<0x") else 1 for token in pieces()]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1000.0] * len(SPECIAL) + [-float(rank) for rank in range(len(pieces()))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        array = weight.float().numpy()
        target = names.get_name(name, try_suffixes=(".weight",))
        if array.ndim == 1:
            writer.add_tensor(target, array + np.float32(1))
            continue
        packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
        writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
