"""What a command assumes is what the function behind it assumes: a number stands in both."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import pytest

from sae_posttrain import LoopSettings, SamplingSettings, discover_language_features, discover_repetition_features
from sae_posttrain.cli import calibrate, discover, main
from sae_posttrain.cli.engine_options import OF_SERVERS
from sae_posttrain.discovery import sample_loops
from sae_posttrain.sampling import Endpoint
from sae_posttrain.steering import calibrate as calibrate_function

FILES = {
    "calibrate": ["--model", "m", "--features", "f", "--prompts", "p", "--output", "o"],
    "discover repetition": ["--model", "m", "--sae", "s", "--prompts", "p", "--layers", "1", "--output", "o"],
    "discover language": ["--model", "m", "--sae", "s", "--texts", "t", "--layers", "1", "--output", "o"],
}
# The tokenizer decides on chat; progress is always shown; an engine is named; and what to read has to be given.
APART = {"chat", "progress", "engine", "select", "prompts", "texts", "sae"}


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("calibrate", calibrate_function),
        ("discover repetition", sample_loops),
        ("discover repetition", discover_repetition_features),
        ("discover language", discover_language_features),
    ],
)
def test_defaults_are_the_functions(command: str, function: Callable[..., Any]) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for module in (calibrate, discover):
        module.add_parser(commands)
    given = vars(parser.parse_args([*command.split(), *FILES[command]]))
    assumed = {name: value for name, value in defaults_of(function).items() if name in given and name not in APART}
    found = {name: plain(given[name], like=value) for name, value in assumed.items()}
    assert len(assumed) > 4
    assert found == assumed


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's arguments, and of the settings among them, as the options are called."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(parameter.default, SamplingSettings):
            found |= asdict(parameter.default)
        elif isinstance(parameter.default, LoopSettings):
            found |= asdict(parameter.default) | {"min_length": parameter.default.min_tokens}
        elif parameter.default is not parameter.empty:
            found[name] = parameter.default
    return found


def plain(value: Any, *, like: Any) -> Any:
    """A list as a tuple; the one of several that an option takes where the function takes one."""
    if not isinstance(value, list):
        return value
    return tuple(value) if isinstance(like, tuple) else value[0] if len(value) == 1 else value


@pytest.mark.parametrize(
    "command",
    [
        "discover language --model m --sae s --texts zh=t --layers 1 --output o",
        "calibrate --model m --features f --prompts p --output o",
        "sae info s --check m --texts t",
        "sae train --model m --texts t --layers 1 --output o",
        "measure repetition --model m --prompts p",
        "inspect contexts --model m --features f --texts t",
        "steer --model m --features f --prompt p",
    ],
)
def test_a_misspelt_dtype_is_refused_with_the_choices(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--dtype", "flaot32"])
    assert stopped.value.code == 2
    assert "--dtype: invalid choice: 'flaot32' (choose from" in capsys.readouterr().err


def test_defaults_of_servers_are_those_of_an_endpoint() -> None:
    own = {field.name: field.default for field in fields(Endpoint) if field.name != "model"}
    named = {"key_variable": "api_key_variable"}
    found = {named.get(name, name): value for name, value in own.items() if name != "url"}
    assert {**found, "served_model": None} == OF_SERVERS
