"""What the shipped configurations for other frameworks say of SASFT; the frameworks' own tests read the rest."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_posttrain.integrations.llamafactory import split_config
from sae_posttrain.training.sasft.settings import SASFTSettings

ROOT = Path(__file__).parents[2]
OURS = ROOT / "configs" / "sasft" / "qwen3-1.7b-base.yaml"
COMMANDS = {
    "axolotl": "axolotl train {}",
    "llamafactory": "python -m sae_posttrain.integrations.llamafactory {}",
}
CONFIGS = [path for name in COMMANDS for path in sorted((ROOT / "configs" / name).glob("*.yaml"))]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_its_keys_are_settings_with_the_values_of_our_own_configuration(path: Path) -> None:
    given = {key: value for key, value in read(path).items() if key.startswith("sasft_")}
    settings, ours = SASFTSettings.from_prefixed(given), read(OURS)
    assert settings.features == ours["features"]
    assert settings.suppress == ours["suppress"]
    assert settings.sasft_weight == ours["sasft_weight"]
    assert settings.sasft_scale == ours["sasft_scale"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_its_first_lines_are_the_command_and_how_to_make_the_features(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == "# " + COMMANDS[path.parent.name].format(path.relative_to(ROOT))
    assert second == OURS.read_text(encoding="utf-8").splitlines()[1]
    assert "Untested on real weights." in path.read_text(encoding="utf-8")


def test_there_is_one_for_each_framework() -> None:
    assert [path.parent.name for path in CONFIGS] == list(COMMANDS)


def test_llamafactory_gets_everything_but_our_keys() -> None:
    config = read(ROOT / "configs" / "llamafactory" / "qwen3-1.7b-base.yaml")
    settings, rest = split_config(config)
    assert settings.suppress == ["zh"]
    assert rest == {key: value for key, value in config.items() if not key.startswith("sasft_")}


TOKENS = {"sasft_suppress": "zh", "sasft_token_weight": 100}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sasft_supress": "zh"}, "sasft_supress: did you mean sasft_suppress"),
        ({"sasft_suppress": "zh"}, "set sasft_features, or sasft_token_weight"),
        ({**TOKENS, "sasft_language_column": "language"}, "Leave sasft_language_column out"),
        ({**TOKENS, "stage": "dpo"}, "Use stage: sft"),
        ({**TOKENS, "stage": "pt"}, "Use stage: sft"),
        ({**TOKENS, "use_asft_loss": True}, "Leave use_asft_loss out"),
        ({**TOKENS, "use_hyper_parallel": True}, "Leave use_hyper_parallel out"),
        ({**TOKENS, "mixture_of_depths": "convert"}, "Leave mixture_of_depths out"),
    ],
)
def test_llamafactory_configurations_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split_config(config)


@pytest.mark.parametrize("variable", ["USE_RAY", "USE_MCA", "USE_KT"])
def test_llamafactory_is_refused_where_the_environment_chooses_another_trainer(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ValueError, match=f"Leave {variable.lower()} out, and {variable} too"):
        split_config(TOKENS)
