"""Steering inside vLLM: a plugin that every vLLM process loads. It does nothing unless a variable is set.

The environment variable `SAE_POSTTRAIN_VLLM_FEATURES` names a feature set. Requests whose `SamplingParams.extra_args`
hold a `steering_alpha` are then steered with it, as `steer` would do. Other requests of the same batch are not steered.
A request may also choose some of the set's layers and features; see `Steering` in `arguments.py`.
The plugin relies on vLLM's internals of versions 0.22 to 0.32, and raises an error where they differ.
"""

# L token slots of a worker, S steered layers, N choices of features, R requests, T tokens of a step, D model width

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..feature_set import FeatureSet
from .arguments import ALPHA, FEATURES_ID, Steering
from .generate import typical_contributions
from .vllm_layers import find_blocks, steer_blocks, token_strength

logger = logging.getLogger(__name__)

__all__ = ["ALPHA", "FEATURES", "FEATURES_ID", "features_id", "install"]

FEATURES = "SAE_POSTTRAIN_VLLM_FEATURES"


def install() -> None:
    """The entry point of `vllm.general_plugins`: steer with the feature set that the environment names, if any."""
    path = os.environ.get(FEATURES)
    if not path:
        return
    features = FeatureSet.load(path)
    try:
        from vllm.v1.request import Request
        from vllm.v1.worker.worker_base import WorkerWrapperBase
    except ImportError as error:
        raise ImportError(f"{FEATURES} needs vLLM 0.22 to 0.32: pip install 'sae-posttrain[vllm]'.") from error
    install_on(Request, WorkerWrapperBase, features)


def install_on(request_class: Any, worker_class: Any, features: FeatureSet) -> None:
    """Steer every worker created from now on, and keep the cached prefixes of steered requests separate."""
    _require(request_class, "from_engine_core_request")
    _require(worker_class, "init_device")
    if hasattr(worker_class, "steered_by"):  # a process may load its plugins twice
        return
    init_device, make_request = worker_class.init_device, request_class.from_engine_core_request

    @functools.wraps(init_device)
    def init_steered_device(worker: Any) -> None:
        init_device(worker)
        attach(worker.worker.model_runner, features)

    @functools.wraps(make_request)
    def make_salted_request(request: Any, block_hasher: Any) -> Any:
        request.cache_salt = cache_salt(request)
        return make_request(request, block_hasher)

    worker_class.init_device, worker_class.steered_by = init_steered_device, features
    request_class.from_engine_core_request = make_salted_request


def steering_of(sampling_params: Any) -> Steering:
    """How a request is steered. Raises: ValueError: what it says about steering cannot be read."""
    return Steering.of(getattr(sampling_params, "extra_args", None))


def features_id(features: FeatureSet) -> str:
    """A short name of a feature set, the same for equal sets in all processes."""
    return features.sha256[:16]


def cache_salt(request: Any) -> str | None:
    """A salt that keeps the cached prefix of a steered request apart from those of other requests.

    From the last position of the prompt on, cached blocks depend on the steering and on the end of the prompt. vLLM
    looks for cached blocks by their tokens only. Without a salt, a second turn or a preempted request would reuse wrong
    blocks.
    """
    salt: str | None = request.cache_salt
    steering = steering_of(request.sampling_params)
    if not steering.alpha:
        return salt
    chosen = "" if steering.layers is None and steering.top is None else f"|{steering.layers}|{steering.top}"
    return f"{salt or ''}|{ALPHA}={steering.alpha}|prompt={_prompt_length(request)}{chosen}"


def _prompt_length(request: Any) -> int:
    return len(request.prompt_token_ids if request.prompt_token_ids is not None else request.prompt_embeds)


@dataclass
class WorkerSteering:
    """A worker's steered requests, and the strengths that its blocks read."""

    layers: tuple[int, ...] = ()
    """The steered layers."""
    strength_SL: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    choice_L: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """For each token, which of the directions is added: number n is that of the first n + 1 features per target."""
    choices: int = 1
    """How many directions each layer has."""
    identity: str = ""
    """The features' `features_id`. A request that asks for other features is not steered."""
    requests: dict[str, tuple[Steering, int]] = field(default_factory=dict)
    """Steered request → how it is steered, and the length of the prompt."""
    clean: bool = True
    """Whether every strength is zero."""

    def note(self, scheduled: Any) -> None:
        """Record which requests end and begin in a scheduler's step. A preempted request may begin again."""
        for name in scheduled.finished_req_ids:
            self.requests.pop(name, None)
        for request in scheduled.scheduled_new_reqs:
            self.requests.pop(request.req_id, None)
            steering = steering_of(request.sampling_params)
            if steering.alpha and steering.features in (None, self.identity):
                self.requests[request.req_id] = steering, _prompt_length(request)

    def fill(self, names: Sequence[str], computed: Sequence[int], scheduled: Any) -> None:
        """Before a step: write the strength of each token, and zero for the padding of a CUDA graph.

        Args:
            names: the step's requests, in the order of the batch.
            computed: for each request, the number of positions computed before this step.
            scheduled: vLLM's scheduler output for this step.
        """
        rows = [self.requests.get(name, (Steering(), 0)) for name in names]
        steers = any(steering.alpha for steering, _ in rows)
        if self.clean and not steers:
            return
        alpha_SR = torch.tensor([[_alpha_in(layer, steering) for steering, _ in rows] for layer in self.layers])
        prompt_R = torch.tensor([prompt for _, prompt in rows])
        scheduled_R = torch.tensor([scheduled.num_scheduled_tokens[name] for name in names])
        strength_ST = token_strength(alpha_SR, prompt_R, torch.tensor(list(map(int, computed))), scheduled_R)
        # New memory for each step: the copy of the last step may not have reached the device yet.
        host_SL = torch.zeros(self.strength_SL.shape, pin_memory=self.strength_SL.is_cuda)
        host_SL[:, : strength_ST.shape[1]] = strength_ST
        self.strength_SL.copy_(host_SL, non_blocking=True)
        if self.choices > 1:
            choice_R = torch.tensor([min(steering.top or self.choices, self.choices) - 1 for steering, _ in rows])
            host_L = torch.zeros(self.choice_L.shape, dtype=torch.long, pin_memory=self.choice_L.is_cuda)
            host_L[: strength_ST.shape[1]] = choice_R.repeat_interleave(scheduled_R)
            self.choice_L.copy_(host_L, non_blocking=True)
        self.clean = not steers


def _alpha_in(layer: int, steering: Steering) -> float:
    return steering.alpha if steering.layers is None or layer in steering.layers else 0.0


def directions_of(features: FeatureSet) -> dict[int, Tensor]:
    """Layer → `(N, D)`: number n is what the first n + 1 features of each target write; the last is that of all."""
    most = max(layer.targets.count(target) for layer in features.layers for target in layer.targets)
    each = [typical_contributions(features.select(top=top)) for top in range(1, most + 1)]
    return {layer.layer: torch.stack([some[layer.layer] for some in each]) for layer in features.layers}


def attach(runner: Any, features: FeatureSet) -> None:
    """Steer a worker's model runner, of vLLM's first or second kind, before its model is loaded."""
    _check(runner.vllm_config)
    features.check_model(runner.model_config.hf_config, runner.model_config.model)
    directions = directions_of(features)
    layers, choices = tuple(sorted(directions)), len(next(iter(directions.values())))
    # vLLM looks up compiled code by the configuration, before it traces the model.
    runner.vllm_config.additional_config |= {
        "sae_posttrain_steered_layers": list(layers),
        "sae_posttrain_steered_choices": choices,
    }
    _require(runner, "load_model", "max_num_tokens", "device")
    load_model = runner.load_model
    steering = WorkerSteering(layers, choices=choices, identity=features_id(features))

    @functools.wraps(load_model)
    def load_steered_model(*args: Any, **kwargs: Any) -> Any:
        loaded = load_model(*args, **kwargs)
        device = runner.device
        steering.strength_SL = torch.zeros(len(layers), runner.max_num_tokens, device=device)
        steering.choice_L = torch.zeros(runner.max_num_tokens, dtype=torch.long, device=device)
        moved = {layer: direction_ND.to(device) for layer, direction_ND in directions.items()}
        strengths = dict(zip(layers, steering.strength_SL, strict=True))
        steer_blocks(find_blocks(runner.model), moved, strengths, steering.choice_L)
        logger.warning("sae_posttrain steers layers %s of %s.", list(layers), runner.model_config.model)
        return loaded

    runner.load_model = load_steered_model
    if hasattr(runner, "_update_states"):
        _require(runner, "_prepare_inputs", "input_batch")
        _before(runner, "_update_states", steering.note)
        _before(runner, "_prepare_inputs", lambda scheduled: _fill_first(runner, steering, scheduled))
    else:
        _require(runner, "add_requests", "prepare_inputs", "req_states")
        _before(runner, "add_requests", steering.note)
        prepare_inputs = runner.prepare_inputs

        @functools.wraps(prepare_inputs)
        def prepare_steered_inputs(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            batch = prepare_inputs(scheduled, *args, **kwargs)
            steering.fill(batch.req_ids, runner.req_states.num_computed_tokens_np[batch.idx_mapping_np], scheduled)
            return batch

        runner.prepare_inputs = prepare_steered_inputs


def _fill_first(runner: Any, steering: WorkerSteering, scheduled: Any) -> None:
    batch = runner.input_batch
    steering.fill(batch.req_ids, batch.num_computed_tokens_cpu[: len(batch.req_ids)], scheduled)


def _before(owner: Any, name: str, act: Callable[[Any], None]) -> None:
    """Call `act` on a method's first argument before the method itself."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def acting(first: Any, *args: Any, **kwargs: Any) -> Any:
        act(first)
        return method(first, *args, **kwargs)

    setattr(owner, name, acting)


def _check(config: Any) -> None:
    """Refuse configurations in which a worker does not see all tokens of its requests in order."""
    parallel = config.parallel_config
    refused = {
        "speculative decoding": config.speculative_config is not None,
        "micro-batches (dual batch overlap)": parallel.use_ubatching,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "sequence-parallel experts": parallel.use_sequence_parallel_moe,
        "an additional_config that is not a dict": not isinstance(config.additional_config, dict),
    }
    if named := [name for name, found in refused.items() if found]:
        raise ValueError(f"{FEATURES} does not work with {', '.join(named)}. Start vLLM without it.")


def _require(owner: Any, *names: str) -> None:
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise ImportError(
            f"This vLLM has no {', '.join(missing)} on {getattr(owner, '__name__', type(owner).__name__)}, which "
            f"steering relies on. Install vLLM 0.22 to 0.32, or unset {FEATURES}."
        )
