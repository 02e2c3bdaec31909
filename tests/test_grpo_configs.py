"""The shipped configurations for steered rollouts parse, and hold DAPO's settings by TRL's names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, ScriptArguments, TrlParser
from versions import TRL_CAN_STEER_ROLLOUTS

from sae_posttrain.cli.grpo import RewardArguments, rewards_of

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "grpo").glob("*.yaml"))
BLOCKS = {"Qwen/Qwen3-1.7B-Base": 28, "Qwen/Qwen3-8B-Base": 36, "Qwen/Qwen3-30B-A3B-Base": 48}
pytestmark = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def commands(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line.removeprefix("# ")) for line in lines if line.startswith("# sae-posttrain")]


def option(words: list[str], name: str) -> list[str]:
    rest = words[words.index(name) + 1 :]
    return rest[: next((place for place, word in enumerate(rest) if word.startswith("--")), len(rest))]


def test_there_is_one_for_each_published_model(path: Path) -> None:
    assert len(CONFIGS) == len(BLOCKS)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"] in BLOCKS


def test_the_first_line_is_the_command_that_uses_it_and_it_says_what_is_untested(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# sae-posttrain grpo --config {path.relative_to(ROOT)}"
    assert re.search("Untested on real weights", text)


def test_the_features_it_trains_with_are_those_the_next_lines_find(path: Path) -> None:
    _, discover, calibrate = commands(path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = written["model_name_or_path"]
    assert discover[:3] == ["sae-posttrain", "discover", "repetition"]
    assert calibrate[:2] == ["sae-posttrain", "calibrate"]
    for words in (discover, calibrate):
        assert option(words, "--model") == [model]
        assert option(words, "--output") == [written["features"]]
    assert option(calibrate, "--features") == [written["features"]]
    assert option(discover, "--sae")[0].startswith(f"Qwen/SAE-Res-{model.removeprefix('Qwen/')}-W")
    assert all(0 <= int(layer) < BLOCKS[model] for layer in option(discover, "--layers"))


@pytest.mark.skipif(not TRL_CAN_STEER_ROLLOUTS, reason="this TRL is too old for steered rollouts")
def test_every_key_is_known_and_arrives(path: Path) -> None:
    from sae_posttrain.training.rollouts import SteeredGRPOConfig

    parser = TrlParser((ScriptArguments, SteeredGRPOConfig, ModelConfig, RewardArguments))
    arguments = ["--config", str(path), "--use_cpu", "true"]
    script, config, model, chosen = parser.parse_args_and_config(arguments, fail_with_unknown_args=True)
    assert (script.dataset_name, model.model_name_or_path in BLOCKS) == ("data/rl", True)
    # Source: arXiv:2503.14476.
    assert (config.loss_type, config.epsilon, config.epsilon_high, config.beta) == ("dapo", 0.2, 0.28, 0.0)
    assert (config.max_completion_length, chosen.soft_overlong_cache) == (20480, 4096)
    assert (config.num_generations, config.learning_rate, config.warmup_steps) == (16, 1e-6, 20)
    assert config.mask_truncated_completions is config.bf16 is True
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 64
    assert (config.steered_per_group, config.steering_control, config.off_policy) == (1, "features", "on_policy")
    names = [reward.__name__ for reward in rewards_of(chosen, config)]
    assert names == ["accuracy_reward", "soft_overlong_punishment_reward"]
