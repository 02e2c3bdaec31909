"""vLLM's part in a rollout, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sae_posttrain.training.rollouts.turn import prepare

from .world import Watched


def as_if_vllm_had_generated(trainer: Any, completions: list[list[int]]) -> Watched:
    """A trainer set up as TRL sets one up for vLLM, whose client returns these completions for every batch."""

    def generate(prompts: Any, **kwargs: Any) -> Any:
        return prompts, [list(row) for row in completions], [[[-1.0]] * len(row) for row in completions], None

    trainer.use_vllm = True
    trainer._last_loaded_step = -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None, generate=generate)
    del trainer.generation_config, trainer.generation_kwargs
    prepare(trainer)
    return Watched(trainer)
