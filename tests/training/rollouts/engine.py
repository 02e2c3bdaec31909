"""Stand-ins for vLLM's two modes under TRL's own generation code. They sample with the tiny model, greedily.

A request is steered as vLLM's plugin would do it, if the stand-in was given features.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch

from sae_posttrain import FeatureSet, steer
from sae_posttrain.steering.vllm_plugin import ALPHA, FEATURES_ID, features_id
from sae_posttrain.training.rollouts.turn import prepare

from .world import Watched, model


@dataclass
class Parameters:
    """vLLM's `SamplingParams`, as far as it is used here."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    logprobs: int | None = 0
    structured_outputs: Any = None
    extra_args: dict[str, Any] | None = None
    repetition_detection: Any = None

    def clone(self) -> Parameters:
        return deepcopy(self)


@dataclass
class Engine:
    """Answers requests, one at a time, and keeps them.

    Args:
        features: what it steers with; None without the plugin.
    """

    features: FeatureSet | None
    requests: list[tuple[list[int], dict[str, Any]]] = field(default_factory=list)

    def answer(self, prompt: list[int], asked: dict[str, Any]) -> tuple[list[int], list[dict[int, float]]]:
        """A completion, and for each of its tokens the likeliest ones with their log-probabilities."""
        with _ONE_AT_A_TIME:  # requests to a server come from several threads
            return self._answer(prompt, asked)

    def _answer(self, prompt: list[int], asked: dict[str, Any]) -> tuple[list[int], list[dict[int, float]]]:
        self.requests.append((prompt, asked))
        made, extra = model(), asked.get("extra_args") or {}
        fits = self.features is not None and extra.get(FEATURES_ID) == features_id(self.features)
        alpha = extra.get(ALPHA, 0.0) if fits else 0.0
        detection = asked.get("repetition_detection")
        settings = {"do_sample": False, "max_new_tokens": asked["max_tokens"], "pad_token_id": 0}
        with steer(made, self.features or _NOTHING, alpha=alpha):
            found = made.generate(
                input_ids=torch.tensor([prompt]), output_logits=True, return_dict_in_generate=True, **settings
            )
        ids = found.sequences[0, len(prompt) :].tolist()
        if detection:
            ids = cut(ids, detection)
        logps = [logits[0].log_softmax(-1) for logits in found.logits][: len(ids)]
        tops = [dict(zip(range(len(one)), one.tolist(), strict=True)) for one in logps]
        return ids, tops


_ONE_AT_A_TIME = Lock()
_NOTHING = {0: torch.zeros(model().config.hidden_size)}


def cut(ids: list[int], detection: Any) -> list[int]:
    """The ids up to the first repetition that vLLM's rule detects."""
    rule = detection if isinstance(detection, dict) else vars(detection)
    sizes = range(rule["min_pattern_size"], rule["max_pattern_size"] + 1)
    for end in range(1, len(ids) + 1):
        for size in sizes:
            length = size * rule["min_count"]
            if length <= end and all(ids[end - 1 - n] == ids[end - 1 - n % size] for n in range(length)):
                return ids[:end]
    return ids


class Llm:
    """vLLM's `LLM` of colocate mode."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls = engine, 0

    def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool = True) -> list[Any]:
        self.calls += 1
        given = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        return [self._one(prompt["prompt_token_ids"], vars(one)) for prompt, one in zip(prompts, given, strict=True)]

    def _one(self, prompt: list[int], asked: dict[str, Any]) -> Any:
        ids, tops = self.engine.answer(prompt, asked)
        logprobs = [
            {token: SimpleNamespace(logprob=value, rank=1 + (token != chosen)) for token, value in top.items()}
            for chosen, top in zip(ids, tops, strict=True)
        ]
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs)])


class Client:
    """TRL's `VLLMClient` of server mode."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls = engine, 0

    def generate(self, prompts: Any, features: Any = None, n: int = 1, **asked: Any) -> dict[str, Any]:
        self.calls += 1
        asked |= asked.pop("generation_kwargs") or {}
        asked["extra_args"] = asked.pop("vllm_xargs", None)
        made = [self.engine.answer(prompt, asked) for prompt in prompts for _ in range(n)]
        ranked = [
            [
                sorted(top.items(), key=lambda one, chosen=chosen: (one[0] != chosen, -one[1]))
                for chosen, top in zip(*row, strict=True)
            ]
            for row in made
        ]
        return {
            "prompt_ids": list(prompts),
            "completion_ids": [ids for ids, _ in made],
            "logprobs": [[[value for _, value in top] for top in row] for row in ranked],
            "logprob_token_ids": [[[token for token, _ in top] for top in row] for row in ranked],
        }


def with_engine(trainer: Any, mode: str, features: FeatureSet | None, **changes: Any) -> tuple[Watched, Any]:
    """A trainer whose rollouts come from a stand-in, through TRL's own `VLLMGeneration.generate`."""
    from trl.generation import vllm_generation

    generation = object.__new__(vllm_generation.VLLMGeneration)
    sampled = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "logprobs": 0}
    more = {"generation_kwargs": {}, "structured_outputs_regex": None, "enable_sleep_mode": False, **changes}
    vars(generation).update(sampled | more)
    vars(generation).update(mode=mode, model=trainer.model, accelerator=trainer.accelerator, tensor_parallel_size=1)
    generation.max_completion_length = trainer.max_completion_length
    engine = Engine(features)
    owner = Client(engine) if mode == "server" else Llm(engine)
    setattr(generation, "vllm_client" if mode == "server" else "llm", owner)
    generation.sync_weights = lambda: None
    trainer.use_vllm, trainer._last_loaded_step, trainer.vllm_generation = True, -1, generation
    del trainer.generation_config, trainer.generation_kwargs
    prepare(trainer)
    return Watched(trainer), owner
