"""A tiny model on disk, with SAEs whose first features each stand for one word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

SAES = "SAE-tiny-L0_4"


def write_word_features(folder: Path, filler: Sequence[str], words: Sequence[str]) -> None:
    """Write `folder/model` and, for its two layers, `folder/SAE-tiny-L0_4`.

    Args:
        folder: an existing folder.
        filler: words whose features come last.
        words: words whose features come first, in this order.
    """
    tokenizer = word_tokenizer([*filler, *words], "<pad>")
    tokenizer.save_pretrained(folder / "model")
    model = qwen3(len(tokenizer), num_hidden_layers=2)
    model.save_pretrained(folder / "model")
    write_saes(folder / SAES, range(2), d_sae=40, width=WIDTH)
    ids = tokenizer.convert_tokens_to_ids([*words, *filler])
    for file in (folder / SAES).glob("*.pt"):
        sae = torch.load(file, weights_only=True)
        # The dual basis of the embeddings, which are most of the residual: each feature is 1 on its own word.
        sae["W_enc"][: len(ids)] = torch.linalg.pinv(model.get_input_embeddings().weight[ids].detach()).T
        sae["b_enc"] = torch.where(torch.arange(40) < len(ids), -0.5, -9.0)
        torch.save(sae, file)
