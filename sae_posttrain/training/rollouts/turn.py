"""One generated turn with some of its rows steered, for every generation backend of TRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from .plan import RolloutPlan
from .source import Source


def steers_in_place(trainer: Any) -> bool:
    """Whether transformers generates the rollouts in one batched `generate` call, which hooks can steer."""
    return not (trainer.use_vllm or trainer.use_transformers_continuous_batching)


def steered_turn(
    trainer: Any,
    turn: Callable[..., Any],
    source: Source,
    plan: RolloutPlan,
    *,
    prompt_ids: Any,
    images: Any,
    fields: Any,
) -> Any:
    """Run one turn with the planned rows steered.

    The plain `generate` of transformers is steered directly. vLLM and continuous batching generate every row as usual;
    then the training model generates the steered rows again, in one more `generate` call over these rows only. Their
    log-probabilities are reported as missing, for which TRL uses an importance weight of 1.

    Args:
        trainer: the TRL trainer.
        turn: TRL's `_generate_single_turn`.
        source: what the steered rows are steered with.
        plan: which rows are steered.
        prompt_ids, images, fields: the arguments of `turn`.

    Returns:
        The same as `turn`.

    Raises:
        ValueError: the prompts have images, and transformers' plain `generate` does not make the rollouts.
    """
    if steers_in_place(trainer):
        with source.generating(trainer.model, plan.here):
            return turn(prompt_ids, images, fields)
    if images is not None or fields:
        raise ValueError(
            "Rollouts for prompts with images can only be steered if transformers generates them: set use_vllm and "
            "use_transformers_continuous_batching to false."
        )
    made = turn(prompt_ids, images, fields)
    rows = plan.rows(as_many_everywhere=trainer._dist.is_fsdp or trainer._dist.is_zero3)
    if not rows:
        return made
    with _dense(trainer), source.generating(trainer.model, [True] * len(rows)):
        again = turn([prompt_ids[row] for row in rows], images, fields)
    completions, logprobs = made if isinstance(made, tuple) else (made, None)
    new = again[0] if isinstance(again, tuple) else again
    for row, ids in zip(plan.rows(), new, strict=False):  # the rest is padding
        completions[row] = ids
        if logprobs is not None:
            logprobs[row] = [None] * len(ids)
    return made


def end_tokens(trainer: Any) -> list[int]:
    """The end-of-sequence token ids of a trainer. TRL before 1.16 knows only the tokenizer's."""
    return getattr(trainer, "eos_token_ids", [trainer._tokenizer.eos_token_id])


def prepare(trainer: Any) -> None:
    """Make a trainer ready for transformers' plain `generate`, whichever backend it uses.

    Raises:
        ValueError: continuous batching with a hybrid model, which transformers does not support.
    """
    if trainer.use_transformers_continuous_batching:
        kinds = getattr(trainer.model.config.get_text_config(), "layer_types", None) or []
        if "linear_attention" in kinds:
            raise ValueError(
                f"Continuous batching does not support {type(trainer.model).__name__}, which has layers with linear "
                "attention; set use_transformers_continuous_batching to false."
            )
    if trainer.use_vllm and not hasattr(trainer, "generation_config"):
        trainer.generation_kwargs = _generation_kwargs(trainer)
        trainer.generation_config = GenerationConfig(**trainer.generation_kwargs, disable_compile=True)


@contextmanager
def _dense(trainer: Any) -> Iterator[None]:
    backends = ("use_vllm", "use_transformers_continuous_batching")
    chosen = {name: getattr(trainer, name) for name in backends}
    for name in backends:
        setattr(trainer, name, False)
    try:
        yield
    finally:
        for name, value in chosen.items():
            setattr(trainer, name, value)


def _generation_kwargs(trainer: Any) -> dict[str, Any]:
    """The arguments of `generate` that TRL sets if it generates with transformers."""
    tokenizer = trainer._tokenizer
    return {
        "max_new_tokens": trainer.max_completion_length,
        "do_sample": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_tokens(trainer),
        "temperature": trainer.temperature,
        "top_p": trainer.top_p,
        "top_k": trainer.top_k,
        "min_p": trainer.min_p,
        "repetition_penalty": trainer.repetition_penalty,
        "cache_implementation": trainer.args.cache_implementation,
        **(trainer.args.generation_kwargs or {}),
    }
