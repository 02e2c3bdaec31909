"""Messages of the library in the words of a command: its options instead of arguments of Python functions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_NOT_OPTIONS = frozenset({"rest", "traceback", "run", "passes_rest", "settings"})
# What commands have options for under other names.
_OTHERWISE = {
    "loop_settings": "--min-repeats and --min-length",
    "min_tokens": "--min-length",
    "chat=False": "--no-chat",
}
_BEFORE, _AFTER = r"(?<![\w.\-'\"/`])", r"(?![\w'\"`])"


def in_options(message: str, args: argparse.Namespace) -> str:
    """A message with the options of a command for the names that Python code gives them.

    Args:
        message: such as 'top_p must be at most 1, got 2' or 'top=0: at least one feature'.
        args: what the command was called with. A command that passes its settings on has `settings` instead: names of
            Python code, and the settings that stand for them.
    """
    names: Mapping[str, str] = getattr(args, "settings", None) or {
        **{name: f"--{name.replace('_', '-')}" for name in vars(args) if name not in _NOT_OPTIONS},
        **_OTHERWISE,
    }
    for name, option in sorted(names.items(), key=lambda pair: -len(pair[0])):
        message = re.sub(rf"{_BEFORE}{re.escape(name)}=(?=\S)", f"{option}=", message)
        if "_" in name or not name.isidentifier():
            message = re.sub(_BEFORE + re.escape(name) + _AFTER, option, message)
        else:  # a word of its own is one anywhere but where something is said about it at the start
            message = re.sub(rf"^{re.escape(name)}(?= (?:must|has|is|has to) )", option, message)
    return message


@contextmanager
def option(name: str) -> Iterator[None]:
    """Say with which option a mistake was made.

    Raises: ValueError: as inside, with the option in front.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
