"""The mean residual of each text: what a dense classifier reads, beside the features of an SAE."""

# E examples, S sequence, D model width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..bars import progress_bar
from ..residual import read_residuals, text_config
from .statistics import check_reading, share_of_process
from .tokens import first_tokens


@torch.no_grad()
def mean_residuals(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    layers: Sequence[int],
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> dict[int, np.ndarray]:
    """Average the residuals of each text over its tokens, for every layer in one pass of the model.

    The first token does not count, as in `collect_firing`. A text of one token has the residual 0. Under `accelerate
    launch` every process reads a part of the texts, and has all means at the end.

    Args:
        model, tokenizer: the model and its tokenizer.
        texts: the examples.
        layers: 0-based decoder blocks.
        batch_size: texts per forward pass.
        max_length: number of tokens of each text that are read.

    Returns:
        Layer → `(E, D)` float32.
    """
    check_reading(batch_size, max_length)
    encoded = first_tokens(tokenizer, texts, max_length)
    order = sorted((e for e, ids in enumerate(encoded) if len(ids) > 1), key=lambda e: -len(encoded[e]))
    width = text_config(model).hidden_size
    means = {layer: np.zeros((len(encoded), width), np.float32) for layer in layers}
    state, batches = PartialState(), share_of_process(order, batch_size)
    quiet = not (progress and state.is_main_process)
    for batch in progress_bar(batches, "reading residuals", total=len(batches), disable=quiet):
        residuals, _ = read_residuals(model, layers, [encoded[e] for e in batch])
        for layer, residual_BSD in residuals.items():
            for row, e in enumerate(batch):
                mean_D = residual_BSD[row, 1 : len(encoded[e])].float().mean(0)
                means[layer][e] = mean_D.cpu().numpy()
    if state.num_processes == 1:
        return means
    # Every process has the means of its own texts, and zeros for the others.
    parts = {layer: torch.from_numpy(means_ED).to(state.device) for layer, means_ED in means.items()}
    return {layer: reduce(part_ED, reduction="sum").cpu().numpy() for layer, part_ED in parts.items()}
