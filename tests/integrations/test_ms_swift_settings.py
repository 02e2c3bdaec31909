"""What the ms-swift plugin does without ms-swift: settings, languages of channels, and where its file lies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset

from sae_posttrain.integrations import ms_swift

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "swift").glob("*.yaml"))


def inputs_of(channels: list[str | None] | None, positions: list[list[int]] | None = None) -> dict[str, Any]:
    rows = len(positions) if positions is not None else len(channels or [None])
    inputs: dict[str, Any] = {"input_ids": torch.zeros(rows, 6, dtype=torch.long)}
    if positions is not None:
        inputs["position_ids"] = torch.tensor(positions)
    return inputs if channels is None else {**inputs, "channel": channels}


def test_settings_come_from_the_environment_alone() -> None:
    environment = {"SASFT_SUPPRESS": "['zh', 'ru']", "SASFT_WEIGHT": "5e-4", "HOME": "/root", "SASF": "1"}
    settings = ms_swift.read_settings(environment)
    assert (settings.suppress, settings.sasft_weight) == (["zh", "ru"], 5e-4)
    assert settings.language_column == "channel"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SASFT_WIEGHT": "1"}, "did you mean sasft_weight"),
        ({"SASFT_LANGUAGE_COLUMN": "lang"}, r"--columns '{\"lang\": \"channel\"}'"),
        ({"SASFT_TOKEN_SHARE": "half"}, "expected a number"),
    ],
)
def test_wrong_settings_are_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ms_swift.read_settings(environment)


@pytest.mark.parametrize(
    ("channels", "positions", "codes"),
    [
        (["zh", None], None, ["zh", None]),
        (None, [[0, 1, 2, 0, 1, 2]], [None, None]),
        (["zh", "en", ""], [[0, 1, 0, 1, 2, 0]], ["zh", "en", None]),  # packed: one row of three examples
        (["zh", "en"], [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]], ["zh", "zh", "zh", "en"]),  # padded on the left
    ],
)
def test_channels_are_languages_of_segments(
    channels: list[str | None] | None, positions: list[list[int]] | None, codes: list[str | None]
) -> None:
    assert ms_swift.languages_of_channels(inputs_of(channels, positions)) == codes


def test_channels_that_fit_no_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels for 2 segments in 1 rows"):
        ms_swift.languages_of_channels(inputs_of(["zh", "en", "ru"], [[0, 1, 2, 0, 1, 2]]))


class Lazy:
    """As ms-swift's lazily encoded and packed datasets: a wrapper without columns of its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset


@pytest.mark.parametrize("wrap", [lambda rows: rows, Lazy, lambda rows: Lazy(Lazy(rows))])
def test_a_channel_that_is_no_language_is_refused_before_training(wrap: Any) -> None:
    ms_swift.check_channels(wrap(Dataset.from_dict({"channel": ["zh", None, "zh-Hant"]})))
    ms_swift.check_channels(wrap(Dataset.from_dict({"messages": ["math"]})))
    with pytest.raises(ValueError, match=r"'math'[\s\S]*SASFT_LANGUAGE_COLUMN to none"):
        ms_swift.check_channels(wrap(Dataset.from_dict({"channel": ["zh", "math"]})))


def test_the_module_prints_where_its_file_lies() -> None:
    command = [sys.executable, "-m", "sae_posttrain.integrations.ms_swift"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert Path(printed.strip()) == Path(ms_swift.__file__).resolve()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configurations_hold_settings_that_are_known(path: Path) -> None:
    """`test_swift.py` gives the same files to ms-swift itself."""
    text = path.read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    plugin = '"$(python -m sae_posttrain.integrations.ms_swift)"'
    assert text.splitlines()[0] == f"# swift sft {path.relative_to(ROOT)} --external_plugins {plugin}"
    assert "Untested on real weights" in text
    assert (written["callbacks"], written["columns"]) == ("sasft", {"language": "channel"})
    settings = ms_swift.read_settings({name: str(value) for name, value in written["ENV"].items()})
    assert settings.suppress == ["zh"]
    assert f"--output {settings.features}" in text.splitlines()[1]
    twin = yaml.safe_load((ROOT / "configs" / "sasft" / path.name).read_text(encoding="utf-8"))
    assert settings.sasft_weight == twin["sasft_weight"]
    for name in ("learning_rate", "max_length", "weight_decay", "warmup_steps", "gradient_accumulation_steps"):
        assert written[name] == twin[name]
