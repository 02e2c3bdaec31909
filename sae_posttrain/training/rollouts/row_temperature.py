"""Sample some rows of one batched `generate` call at another temperature than the others."""

# R rows, S sequence, T completion tokens, V vocabulary

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from ...residual import unwrap
from ...steering.generate import replaced


class RowTemperature(LogitsProcessor):
    """Scales the scores of some rows before `generate` divides all rows by its own temperature.

    Args:
        rows: `(R,)` mask of the rows that have another temperature.
        temperature: the temperature of these rows. At 0 all tokens except the likeliest get the score -inf, so that
            sampling is greedy.
        shared: the temperature of the call, by which `generate` divides the scores afterwards.
    """

    def __init__(self, rows: Tensor, temperature: float, shared: float) -> None:
        self.rows, self.temperature, self.shared = rows, temperature, shared

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.rows.device != scores.device:
            self.rows = self.rows.to(scores.device)
        if self.temperature == 0:
            best_R1 = scores.argmax(dim=-1, keepdim=True)
            own_RV = torch.full_like(scores, -torch.inf).scatter(-1, best_R1, scores.gather(-1, best_R1))
        else:
            own_RV = scores * (self.shared / self.temperature)
        return torch.where(self.rows[:, None], own_RV, scores)


@contextmanager
def row_temperature(model: nn.Module, rows: Sequence[bool], temperature: float) -> Iterator[None]:
    """Sample these rows of every `model.generate(...)` inside the block at `temperature`.

    The other rows get exactly the tokens that they would get without this block: their scores and their random numbers
    stay the same. The call's top_k, top_p and min_p apply to all rows, after the temperature.

    Args:
        model: the model, or a wrapper around it.
        rows: for each prompt of the call, whether it is sampled at `temperature`.
        temperature: at least 0; 0 is greedy.

    Raises:
        ValueError: the call does not sample, uses beam search, or has another number of prompts than `rows`.

    Example:
        >>> with row_temperature(model, [True, False], 0.0):
        ...     model.generate(**two_prompts, do_sample=True, temperature=0.7)
    """
    base = unwrap(model)
    with replaced(base, "generate", _with_rows(base, base.generate, torch.tensor(list(rows)), temperature)):
        yield


def _with_rows(base: Any, generate: Callable[..., Any], rows: Tensor, temperature: float) -> Callable[..., Any]:
    @functools.wraps(generate)
    def cooled(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or base.generation_config
        given = {name: kwargs.get(name, getattr(config, name, None)) for name in ("do_sample", "num_beams")}
        if not given["do_sample"] or (given["num_beams"] or 1) > 1:
            raise ValueError(
                "A temperature for single rollouts needs a `generate` call that samples without beam search; this call "
                f"has do_sample={given['do_sample']} and num_beams={given['num_beams']}. Change generation_kwargs."
            )
        prompts = kwargs.get("input_ids", args[0] if args else None)
        if prompts is not None and len(prompts) != len(rows):
            raise ValueError(
                f"rows has {len(rows)} entries, but generate got {len(prompts)} prompts; give one entry per prompt."
            )
        shared = kwargs.get("temperature", getattr(config, "temperature", None))
        processor = RowTemperature(rows, temperature, 1.0 if shared is None else float(shared))
        processors = LogitsProcessorList([*(kwargs.pop("logits_processor", None) or []), processor])
        return generate(*args, logits_processor=processors, **kwargs)

    return cooled


def logps_at(model: nn.Module, ids_RS: Tensor, mask_RS: Tensor, tokens: int, temperature: float) -> Tensor:
    """Log-probabilities of each row's last tokens under the model at a temperature.

    Args:
        model: the model, or a wrapper around it.
        ids_RS, mask_RS: token ids and attention mask of prompts, padded on the left, with their completions.
        tokens: the completions' length, T.
        temperature: at least 0. At 0 sampling is greedy, and every log-probability is 0.

    Returns:
        `(R, T)` float32.
    """
    if temperature == 0:
        return torch.zeros(len(ids_RS), tokens, device=ids_RS.device)
    output = model(input_ids=ids_RS, attention_mask=mask_RS, use_cache=False, logits_to_keep=tokens + 1)
    logps_RTV = (output.logits[:, -tokens - 1 : -1].float() / temperature).log_softmax(dim=-1)
    logps_RT: Tensor = logps_RTV.gather(2, ids_RS[:, -tokens:, None]).squeeze(2)
    return logps_RT
