"""Steering inside vLLM: a plugin that every vLLM process loads, and that does nothing unless it is switched on.

`SAE_POSTTRAIN_VLLM_FEATURES` names a feature set; then requests whose `SamplingParams.extra_args` hold a
`steering_alpha` are steered by it as `steer` would, beside others that are not. It relies on vLLM's inner parts, as
they are from 0.22 to 0.30, and says so where they have moved.
"""

# L token slots of a worker, D model width

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..feature_set import FeatureSet
from .generate import typical_contributions
from .vllm_layers import find_blocks, steer_blocks, token_strength

logger = logging.getLogger(__name__)

FEATURES = "SAE_POSTTRAIN_VLLM_FEATURES"
ALPHA = "steering_alpha"


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
        raise ImportError(f"{FEATURES} needs vLLM 0.22 to 0.30: pip install 'sae-posttrain[vllm]'.") from error
    install_on(Request, WorkerWrapperBase, features)


def install_on(request_class: Any, worker_class: Any, features: FeatureSet) -> None:
    """Steer the workers that come, and keep what steered requests cache to themselves."""
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


def alpha_of(sampling_params: Any) -> float:
    """How strongly a request is steered; zero if it is not.

    Raises:
        ValueError: its alpha is not a finite number.
    """
    given = (getattr(sampling_params, "extra_args", None) or {}).get(ALPHA, 0.0)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise ValueError(f"{ALPHA} must be a finite number, got {given!r}.")
    return float(given)


def cache_salt(request: Any) -> str | None:
    """What keeps a request's cached prefix apart from other requests'.

    What is cached from the last position of a prompt on depends on alpha and on where the prompt ended, which vLLM
    does not know when it looks for blocks of the same tokens: a second turn, or a preempted request, would find them.
    """
    salt, alpha = request.cache_salt, alpha_of(request.sampling_params)
    return f"{salt or ''}|{ALPHA}={alpha}|prompt={_prompt_length(request)}" if alpha else salt


def _prompt_length(request: Any) -> int:
    return len(request.prompt_token_ids if request.prompt_token_ids is not None else request.prompt_embeds)


@dataclass
class WorkerSteering:
    """What a worker knows of its steered requests, and the strengths its blocks read."""

    strength_L: Tensor
    requests: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Of those that are steered: alpha, and the length of the prompt."""
    clean: bool = True
    """Whether every strength is zero."""

    def note(self, scheduled: Any) -> None:
        """Take in which requests end and begin with a scheduler's step; a preempted one may begin again."""
        for name in scheduled.finished_req_ids:
            self.requests.pop(name, None)
        for request in scheduled.scheduled_new_reqs:
            self.requests.pop(request.req_id, None)
            if alpha := alpha_of(request.sampling_params):
                self.requests[request.req_id] = alpha, _prompt_length(request)

    def fill(self, names: Sequence[str], computed: Sequence[int], scheduled: Any) -> None:
        """Before a step: the strengths of its tokens, and zero behind them, where a graph is padded.

        names: the step's requests, as they follow each other in its batch. computed: positions before the step's.
        """
        rows = [self.requests.get(name, (0.0, 0)) for name in names]
        steers = any(alpha for alpha, _ in rows)
        if self.clean and not steers:
            return
        alpha_R = torch.tensor([alpha for alpha, _ in rows])
        prompt_R = torch.tensor([prompt for _, prompt in rows])
        scheduled_R = torch.tensor([scheduled.num_scheduled_tokens[name] for name in names])
        # Memory of its own for each step: the last one's may still be on its way to the device.
        host_L = torch.zeros(self.strength_L.shape, pin_memory=self.strength_L.is_cuda)
        strength_T = token_strength(alpha_R, prompt_R, torch.tensor(list(map(int, computed))), scheduled_R)
        host_L[: len(strength_T)] = strength_T
        self.strength_L.copy_(host_L, non_blocking=True)
        self.clean = not steers


def attach(runner: Any, features: FeatureSet) -> None:
    """Steer a worker's model runner, vLLM's first or second, whose model is not loaded yet."""
    _check(runner.vllm_config)
    features.check_model(runner.model_config.hf_config, runner.model_config.model)
    directions = typical_contributions(features)
    # Compiled code is looked up by the configuration before anything is traced.
    runner.vllm_config.additional_config["sae_posttrain_steered_layers"] = sorted(directions)
    _require(runner, "load_model", "max_num_tokens", "device")
    load_model, steering = runner.load_model, WorkerSteering(torch.empty(0))

    @functools.wraps(load_model)
    def load_steered_model(*args: Any, **kwargs: Any) -> Any:
        loaded = load_model(*args, **kwargs)
        device = runner.device
        steering.strength_L = torch.zeros(runner.max_num_tokens, device=device)
        moved = {layer: direction_D.to(device) for layer, direction_D in directions.items()}
        steer_blocks(find_blocks(runner.model), moved, steering.strength_L)
        logger.warning("sae_posttrain steers layers %s of %s.", sorted(moved), runner.model_config.model)
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
    """Refuse ways of running in which a worker's tokens are not all the requests' tokens, in order."""
    parallel = config.parallel_config
    refused = {
        "speculative decoding": config.speculative_config is not None,
        "micro-batches (dual batch overlap)": parallel.use_ubatching,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "sequence-parallel experts": parallel.use_sequence_parallel_moe,
        "an additional_config that is no dict": not isinstance(config.additional_config, dict),
    }
    if named := [name for name, found in refused.items() if found]:
        raise ValueError(f"{FEATURES} does not work with {', '.join(named)}; start vLLM without.")


def _require(owner: Any, *names: str) -> None:
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise ImportError(
            f"This vLLM has no {', '.join(missing)} on {getattr(owner, '__name__', type(owner).__name__)}, which "
            f"steering relies on; install 0.22 to 0.30, or unset {FEATURES}."
        )
