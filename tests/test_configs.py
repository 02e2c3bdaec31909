"""The shipped configurations parse, and name SAEs and layers that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, ScriptArguments, TrlParser

from sae_posttrain.sae.catalogue import RELEASES
from sae_posttrain.training.sasft.trainer import SASFTConfig

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "sasft").glob("*.yaml"))

# Source: the model cards; decoder blocks, then the dictionaries published for it.
MODELS = {
    "google/gemma-2-2b": (26, ["gemma-scope-2b-pt-res-16k"]),
    "google/gemma-2-9b": (42, ["gemma-scope-9b-pt-res-16k"]),
    "meta-llama/Llama-3.1-8B": (32, ["llama-scope-8b-base-res-8x"]),
    "Qwen/Qwen3-1.7B-Base": (28, ["W32K-L0_50", "W32K-L0_100"]),
    "Qwen/Qwen3-8B-Base": (36, ["W64K-L0_50", "W64K-L0_100"]),
    "Qwen/Qwen3-30B-A3B-Base": (48, ["W32K-L0_50", "W128K-L0_100"]),
    "Qwen/Qwen3.5-2B-Base": (24, ["W32K-L0_50", "W32K-L0_100"]),
    "Qwen/Qwen3.5-9B-Base": (32, ["W64K-L0_50", "W64K-L0_100"]),
    "Qwen/Qwen3.5-27B": (64, ["W80K-L0_50", "W80K-L0_100"]),
    "Qwen/Qwen3.5-35B-A3B-Base": (40, ["W32K-L0_50", "W128K-L0_100"]),
}
PUBLISHED = {  # arXiv:2507.14894: weight, learning rate
    "google/gemma-2-2b": (5e-4, 5e-5),
    "google/gemma-2-9b": (5e-4, 5e-6),
    "meta-llama/Llama-3.1-8B": (1e-3, 5e-5),
}


def saes_of(model: str) -> list[str]:
    names = MODELS[model][1]
    return [f"Qwen/SAE-Res-{model.removeprefix('Qwen/')}-{name}" for name in names] if "Qwen" in model else names


def discovery_command(path: Path) -> dict[str, list[str]]:
    """Option → its values, from the second line."""
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# "))
    assert words[:3] == ["sae-posttrain", "discover", "language"]
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    return {words[a]: words[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(words)], strict=True)}


def parse(path: Path) -> tuple[ScriptArguments, SASFTConfig, ModelConfig]:
    parser = TrlParser((ScriptArguments, SASFTConfig, ModelConfig))
    return parser.parse_args_and_config(["--config", str(path), "--use_cpu", "true"])


def test_there_is_one_config_per_model() -> None:
    named = [yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"] for path in CONFIGS]
    assert sorted(named) == sorted(MODELS)


def test_the_table_holds_the_14_published_dictionaries() -> None:
    assert len([sae for model in MODELS if "Qwen" in model for sae in saes_of(model)]) == 14


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_first_line_is_the_command_that_uses_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# sae-posttrain sft --config {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_is_known_and_arrives(path: Path) -> None:
    script, config, model = parse(path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert model.model_name_or_path == written["model_name_or_path"]
    assert script.dataset_name == written["dataset_name"]
    assert config.suppress == ["zh"]
    assert config.sasft_weight == written["sasft_weight"] > 0
    assert config.language_column == "language"
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 32
    assert (config.max_length, config.weight_decay, config.warmup_steps) == (2048, 0.1, 100)
    assert config.lr_scheduler_type == "cosine"
    assert config.completion_only_loss is config.bf16 is True


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(CONFIGS[0].read_text(encoding="utf-8") + "sasft_wieght: 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="sasft_wieght"):
        parse(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_discovery_fits_the_model(path: Path) -> None:
    command, written = discovery_command(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    model = written["model_name_or_path"]
    blocks = MODELS[model][0]
    assert command["--model"] == [model]
    assert command["--sae"][0] in saes_of(model)
    if release := RELEASES.get(command["--sae"][0]):
        assert release.base_model == model
        assert {int(layer) for layer in command["--layers"]} <= set(release.layers)
    assert command["--layers"] == [str(blocks - 2), str(blocks - 1)]
    assert command["--output"] == [written["features"]]
    assert any(text.startswith("zh=") for text in command["--texts"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_are_published_or_marked_as_untested(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    published = PUBLISHED.get(written["model_name_or_path"])
    if published is None:
        assert re.search("Untested on real weights", text)
        assert written["sasft_scale"] == "typical"
    else:
        assert (written["sasft_weight"], written["learning_rate"]) == published
        assert written["sasft_scale"] == "raw"
