"""One generated turn with some of its rows steered, for every generation backend of TRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig

from .in_vllm import InVLLM
from .plan import RolloutPlan
from .source import Source


@dataclass(frozen=True)
class SteeredTurn:
    """One generated turn.

    Args:
        made: what TRL's `_generate_single_turn` returned: the completions, or a tuple that begins with them.
        ended: the rows that were ended because they looped.
    """

    made: Any
    ended: frozenset[int]

    @property
    def completions(self) -> list[list[int]]:
        """Token ids of each row's completion."""
        found: list[list[int]] = self.made[0] if isinstance(self.made, tuple) else self.made
        return found

    def forget_logprobs(self, rows: Sequence[int]) -> None:
        """Report the log-probabilities of these rows' tokens as missing, if there are any."""
        if isinstance(self.made, tuple) and self.made[1] is not None:
            for row in rows:
                self.made[1][row] = [None] * len(self.completions[row])


def steers_in_place(trainer: Any) -> bool:
    """Whether transformers generates the rollouts in one batched `generate` call, which hooks can steer."""
    return not (trainer.use_vllm or trainer.use_transformers_continuous_batching)


def steered_turn(
    trainer: Any,
    turn: Callable[..., Any],
    source: Source,
    plan: RolloutPlan,
    in_vllm: InVLLM | None = None,
    *,
    prompt_ids: Any,
    images: Any,
    fields: Any,
) -> SteeredTurn:
    """Run one turn with the planned rows steered.

    The plain `generate` of transformers is steered directly, and so is vLLM with `in_vllm`. Otherwise vLLM and
    continuous batching generate every row as usual. Then the training model generates the steered rows again, in one
    more `generate` call over these rows only. The log-probabilities of steered rows are reported as missing, for which
    TRL uses an importance weight of 1.

    Args:
        trainer: the TRL trainer.
        turn: TRL's `_generate_single_turn`.
        source: what the steered rows are steered with.
        plan: which rows are steered.
        in_vllm: how vLLM steers itself. Default: it does not.
        prompt_ids, images, fields: the arguments of `turn`.

    Returns:
        What `turn` returned, and which rows were ended in a loop. These are cut where they ended.

    Raises:
        ValueError: the prompts have images, and transformers' plain `generate` does not make the rollouts.
    """
    if steers_in_place(trainer):
        with source.generating(trainer.model, plan.here) as ended:
            made = turn(prompt_ids, images, fields)
        return _cut(made, ended)
    if trainer.use_vllm and in_vllm is not None:
        with in_vllm.requests(trainer, plan):
            made = turn(prompt_ids, images, fields)
        if in_vllm.steers:
            limit, final = trainer.max_completion_length, end_tokens(trainer)
            steered = SteeredTurn(made, in_vllm.ended(made[0], plan.rows(), limit, final))
            steered.forget_logprobs(plan.rows())
            return steered
    else:
        made = None
    if images is not None or fields:
        raise ValueError(
            "Rollouts for prompts with images can only be steered if transformers generates them, or vLLM with "
            "steer_in_vllm: set use_vllm and use_transformers_continuous_batching to false."
        )
    steered = SteeredTurn(turn(prompt_ids, images, fields) if made is None else made, frozenset())
    return _generated_again(trainer, turn, source, plan, steered, prompt_ids)


def _generated_again(
    trainer: Any, turn: Callable[..., Any], source: Source, plan: RolloutPlan, made: SteeredTurn, prompt_ids: Any
) -> SteeredTurn:
    """Replace the steered rows of a turn by ones that the training model generates."""
    rows = plan.rows(as_many_everywhere=trainer._dist.is_fsdp or trainer._dist.is_zero3)
    if not rows:
        return made
    with _dense(trainer), source.generating(trainer.model, [True] * len(rows)) as lengths:
        again = turn([prompt_ids[row] for row in rows], None, {})
    again = _cut(again, lengths)
    for place, row in enumerate(plan.rows()):  # the rest is padding
        made.completions[row] = again.completions[place]
    made.forget_logprobs(plan.rows())
    return replace(made, ended=frozenset(row for place, row in enumerate(plan.rows()) if place in again.ended))


def _cut(made: Any, lengths: Mapping[int, int]) -> SteeredTurn:
    """Cut the rows that were ended in a loop: `generate` has filled them with padding."""
    turn = SteeredTurn(made, frozenset(lengths))
    for row, length in lengths.items():
        del turn.completions[row][length:]
    return turn


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
