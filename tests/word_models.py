"""A tiny model with one token per word, and prompts for it: the folders on which the commands for repetition run."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import qwen3, word_tokenizer

WORDS = [f"w{number}" for number in range(59)]


def write_word_model(folder: Path, *special_tokens: str, prompts: int, initializer_range: float) -> None:
    """Write `model`, and `prompts.jsonl` with so many prompts of three words each."""
    tokenizer = word_tokenizer(WORDS, *special_tokens)
    tokenizer.save_pretrained(folder / "model")
    qwen3(len(tokenizer), seed=1, initializer_range=initializer_range).save_pretrained(folder / "model")
    rows = [{"prompt": f"w{number} w{number + 1} w{number + 2}"} for number in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
