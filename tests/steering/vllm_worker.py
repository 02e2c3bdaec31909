"""A vLLM worker without vLLM: its two model runners, blocks in its layout, and a scheduler of given steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from tiny_models import make
from torch import Tensor, nn
from transformers import DynamicCache

from sae_posttrain import FeatureSet
from sae_posttrain.residual import decoder
from sae_posttrain.steering.arguments import ALPHA, LAYERS, TOP
from sae_posttrain.steering.vllm_plugin import attach

SLOTS = 24


class Qwen3DecoderLayer(nn.Module):
    """A transformers block that takes all requests' tokens at once and returns `(hidden, residual)`, as vLLM's."""

    def __init__(self, block: nn.Module, rotary: nn.Module) -> None:
        super().__init__()
        self.block, self.rotary = block, rotary

    def forward(self, batch: Any, hidden_TD: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        stream_TD = hidden_TD if residual is None else hidden_TD + residual
        pieces = zip(stream_TD.split(batch.counts), batch.computed, batch.caches, strict=True)
        outputs = [self._one(piece_SD, computed, cache) for piece_SD, computed, cache in pieces]
        return torch.cat(outputs) - stream_TD, stream_TD

    def _one(self, piece_SD: Tensor, computed: int, cache: DynamicCache) -> Tensor:
        places_S = torch.arange(computed, computed + len(piece_SD))
        mask_SK = torch.arange(computed + len(piece_SD)) > places_S[:, None]
        mask = torch.zeros(mask_SK.shape).masked_fill(mask_SK, -torch.inf)[None, None]
        turns = self.rotary(piece_SD[None], places_S[None])
        return self.block(piece_SD[None], attention_mask=mask, position_embeddings=turns, past_key_values=cache)[0]


class FlatModel(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        inner = decoder(model)
        self.embed, self.norm, self.head = inner.embed_tokens, inner.norm, model.lm_head
        self.layers = nn.ModuleList(Qwen3DecoderLayer(block, inner.rotary_emb) for block in inner.layers)

    def forward(self, batch: Any, ids_T: Tensor) -> Tensor:
        hidden_TD, residual_TD = self.embed(ids_T), None
        for layer in self.layers:
            hidden_TD, residual_TD = layer(batch, hidden_TD, residual_TD)
        return self.head(self.norm(hidden_TD + residual_TD))


def vllm_config(**changes: Any) -> SimpleNamespace:
    parallel = {
        **{"use_ubatching": False, "prefill_context_parallel_size": 1, "use_sequence_parallel_moe": False},
        **{name: value for name, value in changes.items() if name.startswith(("use_", "prefill_"))},
    }
    rest: dict[str, Any] = {"speculative_config": None, "additional_config": {}}
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel), **{name: changes.get(name, value) for name, value in rest.items()}
    )


@dataclass
class Request:
    prompt: list[int]
    alpha: float | None = None
    made: list[int] = field(default_factory=list)
    layers: str | None = None
    top: int | None = None
    computed: int = 0
    cache: DynamicCache = field(default_factory=DynamicCache)

    def preempt(self) -> None:
        self.computed, self.cache = 0, DynamicCache()

    def data(self, name: str) -> SimpleNamespace:
        told = {ALPHA: self.alpha, LAYERS: self.layers, TOP: self.top}
        given = {name: value for name, value in told.items() if value is not None}
        sampling = SimpleNamespace(extra_args=None if self.alpha is None else given)
        return SimpleNamespace(req_id=name, prompt_token_ids=self.prompt, prompt_embeds=None, sampling_params=sampling)


class Runner:
    """What both of vLLM's runners have in common: a model to load, and steps whose order of requests is their own."""

    def __init__(self, config: Any) -> None:
        self.vllm_config = config
        self.device = torch.device("cpu")
        self.max_num_tokens = SLOTS
        text = make().config
        self.model_config = SimpleNamespace(hf_config=text, model="owner/tiny")
        self.model: Any = None
        self.requests: dict[str, Request] = {}

    def load_model(self) -> None:
        self.model = FlatModel(make())

    @torch.no_grad()
    def run(self, names: Sequence[str], counts: Mapping[str, int]) -> None:
        """One forward; a request that has caught up with itself gets its next token."""
        requests = [self.requests[name] for name in names]
        batch = SimpleNamespace(
            counts=[counts[name] for name in names],
            computed=[request.computed for request in requests],
            caches=[request.cache for request in requests],
        )
        pieces = [(r.prompt + r.made)[r.computed :][:count] for r, count in zip(requests, batch.counts, strict=True)]
        logits = self.model(batch, torch.tensor([token for piece in pieces for token in piece]))
        for request, count, logits_SV in zip(requests, batch.counts, logits.split(batch.counts), strict=True):
            request.computed += count
            if request.computed == len(request.prompt) + len(request.made):
                request.made.append(int(logits_SV[-1].argmax()))


class FirstRunner(Runner):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.input_batch = SimpleNamespace(
            req_ids=[], num_computed_tokens_cpu=torch.zeros(8, dtype=torch.int32).numpy()
        )

    def _update_states(self, scheduled: Any) -> None:
        names = sorted(scheduled.num_scheduled_tokens, reverse=True)
        self.input_batch.req_ids = names
        self.input_batch.num_computed_tokens_cpu[: len(names)] = [self.requests[name].computed for name in names]

    def _prepare_inputs(self, scheduled: Any, counts: Any) -> None:
        pass

    def execute_model(self, scheduled: Any) -> None:
        self._update_states(scheduled)
        self._prepare_inputs(scheduled, None)
        self.run(self.input_batch.req_ids, scheduled.num_scheduled_tokens)


class SecondRunner(Runner):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.req_states = SimpleNamespace(num_computed_tokens_np=torch.zeros(8, dtype=torch.int32).numpy())

    def add_requests(self, scheduled: Any) -> None:
        for place, name in enumerate(self.requests):
            self.req_states.num_computed_tokens_np[place] = self.requests[name].computed

    def prepare_inputs(self, scheduled: Any, description: Any) -> Any:
        counts = scheduled.num_scheduled_tokens
        names = sorted(counts, key=lambda name: (counts[name], name))
        places = torch.tensor([list(self.requests).index(name) for name in names])
        return SimpleNamespace(req_ids=names, idx_mapping_np=places.numpy())

    def execute_model(self, scheduled: Any) -> None:
        self.add_requests(scheduled)
        self.run(self.prepare_inputs(scheduled, None).req_ids, scheduled.num_scheduled_tokens)


def steered_runner(kind: type[Runner], features: FeatureSet) -> Runner:
    runner = kind(vllm_config())
    attach(runner, features)
    runner.load_model()
    return runner


def step(
    runner: Any, counts: Mapping[str, int], *, new: Sequence[str] = (), finished: Sequence[str] = ()
) -> SimpleNamespace:
    """What the scheduler tells the worker: tokens of each request, and which requests it sees first or last."""
    scheduled = SimpleNamespace(
        num_scheduled_tokens=dict(counts),
        finished_req_ids=set(finished),
        scheduled_new_reqs=[runner.requests[name].data(name) for name in new],
    )
    runner.execute_model(scheduled)
    return scheduled
