"""Convert messages of the library for the command line: they name options instead of Python arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_NOT_OPTIONS = frozenset({"rest", "traceback", "run", "passes_rest", "settings", "prog", "shares_work"})
# Arguments whose option has another name.
_OTHERWISE = {
    "loop_settings": "--min-repeats and --min-length",
    "min_tokens": "--min-length",
    "chat=False": "--no-chat",
    "chat=True": "--chat",
}
_BEFORE, _AFTER = r"(?<![\w.\-'\"/`])", r"(?![\w'\"`])"


def in_options(message: str, args: argparse.Namespace) -> str:
    """Replace the names of Python arguments in a message by the options of a command.

    Args:
        message: a message such as 'top_p must be at most 1, got 2' or 'top=0: at least one feature'.
        args: the command's arguments. A command that passes its settings on has `settings` instead, a mapping from
            Python names to the names of settings.
    """
    names: Mapping[str, str] = getattr(args, "settings", None) or {
        **{name: f"--{name.replace('_', '-')}" for name in vars(args) if name not in _NOT_OPTIONS},
        **_OTHERWISE,
    }
    for name, option in sorted(names.items(), key=lambda pair: -len(pair[0])):
        message = re.sub(rf"{_BEFORE}{re.escape(name)}=(?=\S)", f"{option}=", message)
        if "_" in name or not name.isidentifier():
            message = re.sub(_BEFORE + re.escape(name) + _AFTER, option, message)
        else:  # a common word is an argument's name only at the start of a message, before one of these verbs
            message = re.sub(rf"^{re.escape(name)}(?= (?:must|has|is|has to) )", option, message)
    return message


@contextmanager
def option(name: str) -> Iterator[None]:
    """Put the name of an option in front of errors that are raised inside.

    Raises: ValueError: the error from inside, with the option in front.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
