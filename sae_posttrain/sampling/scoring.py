"""The log-probabilities of given tokens, with transformers."""

# S sequence, V vocabulary

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ..residual import inputs_device


def response_logprobs(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """The log-probability of each token of a response, in nats.

    Args:
        model: a causal language model.
        prompt, response: token ids; the prompt has at least one.
    """
    ids_1S = torch.tensor([[*prompt, *response]], device=inputs_device(model))
    with torch.no_grad():
        logits_SV = model(input_ids=ids_1S, use_cache=False, logits_to_keep=len(response) + 1).logits[0, :-1]
    targets_S = ids_1S[0, len(prompt) :].to(logits_SV.device)
    surprisal: list[float] = cross_entropy(logits_SV.float(), targets_S, reduction="none").tolist()
    return [-one for one in surprisal]
