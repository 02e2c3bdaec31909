"""The files of configs/accelerate, as `accelerate launch` reads them; `training/sasft/ranks.py` trains with them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from two_processes import CONFIGS

ROOT = Path(__file__).parent.parent
PATHS = sorted(CONFIGS.glob("*.yaml"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def launch_arguments(path: Path) -> Namespace:
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "sae_posttrain"])
    return _validate_launch_command(arguments)[0]


def unknown_keys(path: Path) -> set[str]:
    """accelerate refuses unknown keys at the top, and takes any below it without a word."""
    written = load_config_from_file(str(path))
    nested = {**written.fsdp_config, **written.deepspeed_config}
    return {key for key in nested if key not in vars(launch_command_parser().parse_args([""]))}


def test_there_is_one_for_each_way() -> None:
    assert [path.stem for path in PATHS] == ["ddp", "fsdp2", "zero2", "zero3"]


@each
def test_the_first_line_is_a_command_that_uses_it(path: Path) -> None:
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split()
    assert words[:4] == ["accelerate", "launch", "--config_file", str(path.relative_to(ROOT))]
    assert words[4:7] == ["-m", "sae_posttrain", "sft"]
    assert (ROOT / words[words.index("--config") + 1]).is_file()


@each
def test_every_key_is_known(path: Path) -> None:
    assert not unknown_keys(path)


def test_an_unknown_key_is_found(tmp_path: Path) -> None:
    written = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text(encoding="utf-8"))
    written["fsdp_config"]["fsdp_reshard_after_forwards"] = True
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    assert unknown_keys(path) == {"fsdp_reshard_after_forwards"}


@each
def test_launching_takes_the_settings_over(path: Path) -> None:
    arguments = launch_arguments(path)
    ways = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "zero2": "use_deepspeed", "zero3": "use_deepspeed"}
    chosen = [way for way in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(arguments, way)]
    assert chosen == [ways[path.stem]]
    assert arguments.mixed_precision == "bf16"
    written = load_config_from_file(str(path))
    for key, value in {**written.fsdp_config, **written.deepspeed_config}.items():
        assert getattr(arguments, key) == value
