"""Get the responses: from a file, or from a model at one or several temperatures, top_p values and token limits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

from ...languages import get_language
from ...texts import Row
from ..engine_options import add_shape, answer_shape, check_engine
from ..inputs import add_chat, add_columns, add_dtype, column_names_of, read_rows

if TYPE_CHECKING:
    from ...sampling import SamplingSettings

SAMPLING = ("samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
_SEVERAL = ("temperature", "top_p", "max_new_tokens")
# Values that servers use. After a content filter or an abort, it is not known how the model would have continued.
REASONS: dict[str, bool | None] = {
    **{
        "stop": True,
        "eos": True,
        "eos_token": True,
        "end_turn": True,
        "stop_sequence": True,
        "tool_calls": True,
        "function_call": True,
    },
    **{"length": False, "max_tokens": False, "content_filter": None, "abort": None, "error": None},
}


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--responses",
        metavar="FILE",
        help="file with responses to measure: .jsonl, .csv, .parquet, …, or the output of a server; docs/measuring.md "
        "lists all formats",
    )
    parser.add_argument(
        "--model",
        help="folder or hub id of the model to sample from; with --endpoint, its name on the server, unless "
        "--served-model gives that",
    )
    parser.add_argument("--adapter", help="folder or hub id of a PEFT adapter for --model")
    parser.add_argument("--prompts", metavar="FILE", help="file whose rows have a prompt (text or messages)")
    parser.add_argument(
        "--against", metavar="FILE", help="file with another run's responses to the same prompts; compare with it"
    )
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="COLUMN", help="print a report for each value of these columns"
    )
    parser.add_argument("--limit", type=int, help="number of rows to read (default: all)")
    add_columns(parser.add_argument_group("columns of the files"))


def add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--samples",
        type=int,
        default=8,
        help="responses per prompt (default: 8); at temperature 0 only one, because all would be equal",
    )
    group.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        default=[1.0],
        help="one or several temperatures; 0 is greedy (default: 1)",
    )
    group.add_argument(
        "--top-p",
        type=float,
        nargs="+",
        default=[0.8],
        help="one or several values of top-p (default: 0.8, as published)",
    )
    group.add_argument(
        "--max-new-tokens",
        type=int,
        nargs="+",
        default=[2048],
        help="one or several token limits; responses are sampled to the largest and cut to the others (default: 2048)",
    )
    group.add_argument("--batch-size", type=int, default=32, help="responses sampled at once (default: 32)")
    group.add_argument(
        "--seed", type=_seed, default=0, help="random seed of the sampling and of the interval, at least 0 (default: 0)"
    )
    add_shape(group)
    add_dtype(group)
    add_chat(group)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}.")
    return int(text)


def read_source(args: argparse.Namespace, *, language: bool = False) -> list[Row]:
    """A row for each response, or for each prompt. With `language`, each row is checked to have a known language."""
    if not args.responses and not args.model:
        raise ValueError("Give --responses FILE, or --model with --prompts FILE to sample responses.")
    if args.responses and args.model and not getattr(args, "expected", False):
        raise ValueError("Give --responses or --model, not both; only `code-switching --expected` reads both.")
    for name in ("adapter", "prompts"):
        if args.responses and getattr(args, name) and not (name == "adapter" and args.model):
            raise ValueError(f"--{name} needs --model, because with --responses nothing is generated.")
    if args.model and not args.responses and not args.prompts:
        raise ValueError("--model needs --prompts: a file whose rows have a prompt.")
    source, column = (args.responses, "response") if args.responses else (args.prompts, "prompt")
    rows = read_rows(source, column, args.limit, column_names_of(args))
    return _with_language(rows, source, args.language) if language else rows


def read_against(args: argparse.Namespace, *, language: bool = False) -> list[Row]:
    """The rows of the run to compare with, if there is one. They are read before anything is sampled."""
    if not args.against:
        return []
    if setting_columns(args):
        raise ValueError(
            "--against compares one report with one other. Leave out --by, and give each setting one value."
        )
    if args.csv:
        raise ValueError("--csv cannot print a comparison; use --json.")
    rows = read_rows(args.against, "response", args.limit, column_names_of(args))
    return _with_language(rows, args.against, args.language) if language else rows


def setting_columns(args: argparse.Namespace) -> list[str]:
    """The columns that decide a row's report: those of --by, and the sampling settings that have several values."""
    several = [name for name in _SEVERAL if args.model and len(set(getattr(args, name))) > 1]
    return list(dict.fromkeys([*several, *args.by]))


def by_setting(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of each setting, in order. A list or an object, such as messages, is compared by its JSON."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(
                f"--by: response {number} has no column {missing[0]!r}; it has {', '.join(map(repr, row))}."
            )
        groups.setdefault(tuple(_hashable(row[column]) for column in columns), []).append(row)
    return groups


def _hashable(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


def _with_language(rows: Sequence[Row], source: str, default: str | None) -> list[Row]:
    found = []
    for number, row in enumerate(rows, start=1):
        where, language = f"{source}, row {number}", row.get("language")
        language = default if language in (None, "") else language
        if not isinstance(language, str | None):
            raise ValueError(f"{where}: 'language' holds {language!r:.40}; expected a code such as \"en\".")
        if not language:
            raise ValueError(
                f"{where}: no 'language'; add the column, or give --language CODE for all rows, or "
                f"--language-column NAME where another column holds it."
            )
        try:
            get_language(language)
        except ValueError as error:
            named = where if row.get("language") else "--language"
            raise ValueError(f"{named}: {error}") from error
        found.append({**row, "language": language})
    return found


def check_allowed(rows: Sequence[Row]) -> None:
    """Check the column `allowed` before anything is sampled. Raises: ValueError: the message has the row's number."""
    from ...metrics import allowed_in

    for number, row in enumerate(rows, start=1):
        try:
            allowed_in(row)
        except ValueError as error:
            raise ValueError(f"row {number}, {error}") from error


def check_sampling(args: argparse.Namespace) -> None:
    """Check all sampling settings. Raises: ValueError: one of them is out of range."""
    from ...sampling import check_counts

    check_counts(samples=args.samples, batch_size=args.batch_size)
    sampling_of(args)
    check_engine(args)


def sampling_of(args: argparse.Namespace) -> list[SamplingSettings]:
    """The requested sampling settings without duplicates, with the lengths in increasing order."""
    from ...sampling import SamplingSettings

    caps = sorted(set(args.max_new_tokens))
    several = product(dict.fromkeys(args.temperature), dict.fromkeys(args.top_p), caps)
    same = {"seed": args.seed, **answer_shape(args)}
    return [SamplingSettings(temperature, top_p, cap, **same) for temperature, top_p, cap in several]


def placeholder_rows(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """Rows with the columns that `sample` gives them, one for each prompt.

    Their response has thinking and an answer. Both contain something that each metric can count.
    """
    setting = sampled_at(args, sampling_of(args)[0])
    words = "a b c d e"
    found = {"response": f"{words.join(args.thinking_tags)}{words}", "finish_reason": "length", "tokens": 16}
    return [{**row, **setting, **found} for row in rows]


def sampled_at(args: argparse.Namespace, sampling: SamplingSettings) -> Row:
    """The columns of a row with its sampling settings."""
    setting = asdict(sampling)
    return {name: setting[name] for name in setting_columns(args) if name in _SEVERAL}


def ended(rows: Sequence[Row]) -> list[bool | None]:
    """Whether the model ended each response by itself, from `finish_reason` or else `ended`; None if not known.

    Raises: ValueError: a value that is not documented.
    """
    return [_ended(row, number) for number, row in enumerate(rows, start=1)]


def _ended(row: Row, number: int) -> bool | None:
    reason, said = row.get("finish_reason"), row.get("ended")
    if reason is None or reason == "":
        if isinstance(said, bool):
            return said
        if said is None or said == "":
            return None
        if isinstance(said, str) and said.lower() in ("true", "false"):  # as .csv writes them
            return said.lower() == "true"
        raise ValueError(f"response {number}: 'ended' holds {said!r:.40}; expected true, false or nothing.")
    if not isinstance(reason, str) or reason.lower() not in REASONS:
        raise ValueError(
            f'response {number}: \'finish_reason\' holds {reason!r:.40}; expected "stop", "length" or nothing.'
        )
    return REASONS[reason.lower()]
