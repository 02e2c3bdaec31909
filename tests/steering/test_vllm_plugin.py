"""What the plugin does inside vLLM, on a stand-in for its workers: the arithmetic, the layers, the cache, refusals."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steering_cases import feature_set
from tiny_models import BLOCKS, WIDTH, make, token_ids
from torch import nn
from torch.testing import assert_close

from sae_posttrain import FeatureSet, steer
from sae_posttrain.steering import vllm_plugin
from sae_posttrain.steering.vllm_layers import KNOWN_BLOCKS, find_blocks, steer_blocks, token_strength
from sae_posttrain.steering.vllm_plugin import (
    ALPHA,
    FEATURES,
    attach,
    cache_salt,
    install_on,
    steering_of,
)

from .vllm_worker import SLOTS, FirstRunner, Qwen3DecoderLayer, Request, Runner, SecondRunner, steered_runner, step
from .vllm_worker import vllm_config as config_of

RUNNERS = pytest.mark.parametrize("kind", [FirstRunner, SecondRunner])
NEW = 6


@pytest.fixture
def features() -> FeatureSet:
    torch.manual_seed(3)
    return feature_set()


def expected(features: FeatureSet, prompt: list[int], alpha: float | None, new: int = NEW) -> list[int]:
    model, ids = make(), torch.tensor([prompt])
    settings: Any = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
    with steer(model, features, alpha=alpha or 0.0):
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return made[0, len(prompt) :].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_strengths_of_tokens_are_those_of_a_loop_over_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 7, (), generator=generator))
    prompt_R, scheduled_R = (torch.randint(1, 9, (rows,), generator=generator) for _ in range(2))
    computed_R = torch.randint(0, 12, (rows,), generator=generator)
    alpha_R = torch.randint(-2, 3, (rows,), generator=generator).float()
    wanted = [
        float(alpha_R[row]) if position >= prompt_R[row] - 1 else 0.0
        for row in range(rows)
        for position in range(int(computed_R[row]), int(computed_R[row] + scheduled_R[row]))
    ]
    assert token_strength(alpha_R, prompt_R, computed_R, scheduled_R).tolist() == wanted


@RUNNERS
def test_requests_are_steered_as_in_generate_however_they_are_scheduled(kind: Any, features: FeatureSet) -> None:
    prompts = [row.tolist() for row in token_ids(4, 7)]
    runner = steered_runner(kind, features)
    runner.requests = {
        "a": Request(prompts[0], 2.0),
        "b": Request(prompts[1]),
        "c": Request(prompts[2][:1], -3.0),
        "d": Request(prompts[3][:4], 2.5),
    }
    step(runner, {"a": 3, "b": 7}, new=["a", "b"])  # a chunk of a's prompt
    step(runner, {"a": 3, "b": 1, "c": 1}, new=["c"])
    step(runner, {"a": 1, "b": 1, "c": 1, "d": 4}, new=["d"])  # a's last position alone
    step(runner, {"a": 1, "c": 1, "d": 1})
    step(runner, {"a": 1, "b": 1, "c": 1})
    runner.requests["a"].preempt()
    step(runner, {"b": 1, "c": 1, "d": 1})
    again = ["a"] if kind is SecondRunner else []  # it is told of preempted requests as of new ones
    step(runner, {"a": 5, "b": 1, "c": 1, "d": 1}, new=again)
    step(runner, {"a": 5, "d": 1}, finished=["b", "c"])  # the rest of its prompt, and what it had made
    while len(runner.requests["a"].made) < NEW:
        step(runner, {"a": 1, "d": 1})
    for request in runner.requests.values():
        plain = expected(features, request.prompt, None, len(request.made))
        assert request.made == expected(features, request.prompt, request.alpha, len(request.made))
        assert (request.made != plain) == (request.alpha is not None)


@RUNNERS
def test_a_name_that_comes_again_is_not_steered_as_its_last_bearer(kind: Any, features: FeatureSet) -> None:
    prompt = token_ids(1, 5)[0].tolist()
    runner = steered_runner(kind, features)
    for alpha in (2.0, None):
        runner.requests["a"] = Request(prompt, alpha)
        step(runner, {"a": 5}, new=["a"])
        step(runner, {"a": 1})
        assert runner.requests["a"].made == expected(features, prompt, alpha, 2)


@RUNNERS
def test_strengths_lie_still_and_are_zero_behind_a_steps_tokens(kind: Any, features: FeatureSet) -> None:
    runner = steered_runner(kind, features)
    runner.requests = {"a": Request([5, 6, 7], 2.0), "b": Request([8, 9])}
    strength_L = runner.model.layers[1].steering_strength_L
    place = strength_L.data_ptr()
    step(runner, {"a": 3}, new=["a"])
    assert strength_L.tolist() == [0.0, 0.0, 2.0] + [0.0] * (SLOTS - 3)
    step(runner, {"a": 1})
    assert strength_L.tolist() == [2.0] + [0.0] * (SLOTS - 1)
    step(runner, {"b": 2}, new=["b"], finished=["a"])
    assert not strength_L.any()
    assert strength_L.data_ptr() == place


def test_compiled_code_follows_strengths_and_directions_without_compiling_again() -> None:
    compiled: list[int] = []

    class Qwen3DecoderLayer(nn.Module):
        def forward(self, hidden_TD: Any, residual: Any) -> Any:
            return hidden_TD.tanh(), residual + hidden_TD

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    blocks = nn.ModuleList([Qwen3DecoderLayer(), Qwen3DecoderLayer()])
    strength_L, direction_1D = torch.zeros(SLOTS), torch.randn(1, WIDTH)
    steer_blocks(blocks, {1: direction_1D}, {1: strength_L}, torch.zeros(SLOTS, dtype=torch.long))

    @torch.compile(backend=backend, fullgraph=True, dynamic=True)
    def stack(hidden_TD: Any) -> Any:
        residual_TD = torch.zeros_like(hidden_TD)
        for block in blocks:
            hidden_TD, residual_TD = block(hidden_TD, residual_TD)
        return hidden_TD + residual_TD

    for tokens in (5, 9):
        hidden_TD = torch.randn(tokens, WIDTH)
        plain_TD = hidden_TD.tanh().tanh() + hidden_TD + hidden_TD.tanh()
        for strength in (0.0, 2.0, -1.0):
            strength_L.zero_()[1] = strength
            wanted_TD = plain_TD.clone()
            wanted_TD[1] += strength * direction_1D[0]
            assert_close(stack(hidden_TD), wanted_TD)
        direction_1D.mul_(2)
    assert compiled == [1]


@pytest.mark.parametrize("choices", [1, 3])
def test_a_token_that_is_not_steered_comes_out_bit_for_bit(choices: int) -> None:
    block, hidden_TD = Qwen3DecoderLayer(nn.Identity(), nn.Identity()), torch.randn(4, WIDTH).bfloat16()
    block.forward = lambda hidden_TD: (hidden_TD, hidden_TD)  # type: ignore[method-assign]
    strength_L, choice_L = torch.tensor([0.0, 1.5, 0.0, 0.0, 7.0]), torch.tensor([0, 2, 1, 0, 0])
    steer_blocks(nn.ModuleList([block]), {0: torch.randn(choices, WIDTH)}, {0: strength_L}, choice_L)
    steered_TD, residual_TD = block(hidden_TD)
    changed = (steered_TD != hidden_TD).any(dim=1)
    assert changed.tolist() == [False, True, False, False]
    assert steered_TD.dtype == torch.bfloat16
    assert residual_TD is hidden_TD  # once, not to both of the pair


def engine_request(alpha: float | None = None, salt: str | None = None, length: int = 3) -> SimpleNamespace:
    sampling = SimpleNamespace(extra_args=None if alpha is None else {ALPHA: alpha})
    ids = list(range(length))
    return SimpleNamespace(sampling_params=sampling, prompt_token_ids=ids, prompt_embeds=None, cache_salt=salt)


def test_only_requests_steered_alike_share_a_cache() -> None:
    assert cache_salt(engine_request()) is None
    assert cache_salt(engine_request(0.0, "mine")) == "mine"
    assert cache_salt(engine_request(2.0)) == cache_salt(engine_request(2.0))
    different = [engine_request(2.0), engine_request(1.0), engine_request(2.0, "mine"), engine_request(2.0, length=4)]
    for more in ({"steering_layers": "1"}, {"steering_layers": "1,2"}, {"steering_top": 1}):
        different.append(engine_request(2.0))
        different[-1].sampling_params.extra_args |= more
    salts = {cache_salt(request) for request in different}
    assert len(salts) == len(different)
    assert not salts & {None, "mine"}


def test_what_is_installed_salts_requests_and_steers_workers_once(features: FeatureSet) -> None:
    class EngineRequest:
        @classmethod
        def from_engine_core_request(cls, request: Any, hasher: Any) -> Any:
            return cls, request.cache_salt, hasher

    class Wrapper:
        def init_device(self) -> None:
            self.worker = SimpleNamespace(model_runner=FirstRunner(config_of()))

    for _ in range(2):
        install_on(EngineRequest, Wrapper, features)
    given = engine_request(2.0)
    salt = cache_salt(given)
    assert EngineRequest.from_engine_core_request(given, "hasher") == (EngineRequest, salt, "hasher")
    wrapper: Any = Wrapper()
    wrapper.init_device()
    runner = wrapper.worker.model_runner
    told = {"sae_posttrain_steered_layers": [1, 2], "sae_posttrain_steered_choices": 1}
    assert runner.vllm_config.additional_config == told
    runner.load_model()
    assert [len(layer._forward_hooks) for layer in runner.model.layers] == [0, 1, 1, 0]


def test_without_the_switch_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FEATURES, raising=False)
    monkeypatch.setattr(vllm_plugin, "install_on", lambda *_: pytest.fail("installed"))
    vllm_plugin.install()


def test_without_vllm_the_extra_is_named(features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features.save(tmp_path / "features.safetensors")
    monkeypatch.setenv(FEATURES, str(tmp_path / "features.safetensors"))
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(ImportError, match=r"sae-posttrain\[vllm\]"):
        vllm_plugin.install()


def test_the_entry_point_is_there() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = project["entry-points"]["vllm.general_plugins"].values()
    module, name = entry.split(":")
    assert getattr(import_module(module), name) is vllm_plugin.install


@pytest.mark.parametrize("alpha", ["2", True, float("nan"), float("inf"), [1.0]])
def test_an_alpha_that_is_no_finite_number_is_refused(alpha: Any) -> None:
    with pytest.raises(ValueError, match="finite number"):
        steering_of(engine_request(alpha).sampling_params)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"speculative_config": object()}, "speculative"),
        ({"use_ubatching": True}, "micro-batches"),
        ({"prefill_context_parallel_size": 2}, "context parallelism"),
        ({"use_sequence_parallel_moe": True}, "experts"),
        ({"additional_config": object()}, "additional_config"),
    ],
)
def test_ways_of_running_that_cannot_be_steered_are_refused(
    changes: dict[str, Any], names: str, features: FeatureSet
) -> None:
    with pytest.raises(ValueError, match=names):
        attach(FirstRunner(config_of(**changes)), features)


def test_features_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="layers of width"):
        attach(FirstRunner(config_of()), feature_set(d_model=WIDTH * 2))


def test_blocks_that_nobody_has_read_are_refused() -> None:
    with pytest.raises(ValueError, match=KNOWN_BLOCKS[0]):
        find_blocks(make())  # transformers' blocks are known by the same names, but not to return a pair
    blocks = nn.ModuleList([Qwen3DecoderLayer(nn.Identity(), nn.Identity())])
    with pytest.raises(ValueError, match="blocks 0 to"):
        steer_blocks(blocks, {BLOCKS: torch.zeros(1, WIDTH)}, {}, torch.zeros(SLOTS))


def test_a_vllm_whose_parts_have_moved_is_refused(features: FeatureSet) -> None:
    class Moved(Runner):
        def add_requests(self, scheduled: Any) -> None: ...

    with pytest.raises(ImportError, match="prepare_inputs"):
        attach(Moved(config_of()), features)
    with pytest.raises(ImportError, match="from_engine_core_request"):
        install_on(object, SimpleNamespace(init_device=None), features)
