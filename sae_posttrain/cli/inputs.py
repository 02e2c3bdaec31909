"""Inputs that several commands share: a model with its tokenizer, and rows of prompts or responses."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..metrics.loops import MIN_LENGTH, MIN_REPEATS, MIN_TOKENS, LoopSettings
from ..metrics.thinking import TAGS
from ..texts import Row, load_rows
from .answers import ColumnNames, answers_in, prompt_of_chat, under_our_names, with_prompt


def named(items: Sequence[str]) -> dict[str, str]:
    """Items of the form NAME=FILE as name → file.

    Raises: ValueError: an item of another form, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, separator, source = item.partition("=")
        if not separator or not name or not source or name in found:
            raise ValueError(f"{item!r}: expected NAME=FILE, each name once, such as en=en.jsonl.")
        found[name] = source
    return found


def at_least(least: int) -> Callable[[str], int]:
    """The `type` of an option: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}.")
        return number

    return read


@contextmanager
def searching_this_folder() -> Iterator[None]:
    """Find the user's own modules in the current folder, as `python -m` does; an installed command does not."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def add_chat(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="apply the chat template to text prompts (default: if the tokenizer has one). Use --no-chat for a model "
        "that `sft` or `grpo` trained on text prompts, which they leave unchanged",
    )


def add_dtype(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32", "float64"),
        default="auto",
        help="number format of the model's weights (default: %(default)s)",
    )


def add_loops(parser: argparse._ActionsContainer, *, tokens: bool) -> None:
    """Add the options that define a loop, for token ids or for texts."""
    parser.add_argument(
        "--min-repeats",
        type=int,
        default=MIN_REPEATS,
        help="smallest number of whole periods of a loop; twice as many if its numbers count up or down "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--min-length",
        type=int,
        default=MIN_TOKENS if tokens else MIN_LENGTH,
        help=(
            "smallest number of tokens of a loop"
            if tokens
            else "smallest length of a loop in letters; a Chinese character counts as 3, a kana or Korean syllable as 2"
        )
        + " (default: %(default)s)",
    )
    parser.add_argument(
        "--fold-digits",
        action=argparse.BooleanOptionalAction,
        default=not tokens,
        help="whether a text that repeats except for numbers that count up or down is a loop"
        + (
            ", as in `sae-posttrain measure repetition`. Without it, only token ids that repeat exactly are a loop"
            if tokens
            else ""
        )
        + " (default: %(default)s)",
    )


def loop_settings(args: argparse.Namespace, *, tokens: bool) -> LoopSettings:
    """The settings of `add_loops`."""
    if tokens:
        return LoopSettings(args.min_repeats, min_tokens=args.min_length, fold_digits=args.fold_digits)
    return LoopSettings(min_repeats=args.min_repeats, min_length=args.min_length, fold_digits=args.fold_digits)


def uses_chat(args: argparse.Namespace, tokenizer: Any) -> bool:
    return bool(tokenizer.chat_template) if args.chat is None else args.chat


def add_columns(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--response-column",
        metavar="NAME",
        help="column with the responses, as texts or messages (default: response, completion, output, "
        "generated_text, the "
        "last turn of messages, the choices of a server's output, or text)",
    )
    parser.add_argument(
        "--prompt-column", metavar="NAME", help="column with the prompts (default: prompt, instruction or question)"
    )
    parser.add_argument("--language-column", metavar="NAME", help="column with the languages (default: language)")


def column_names_of(args: argparse.Namespace) -> ColumnNames:
    """The values of the options of `add_columns`, and of `--thinking-tags` if the command has it."""
    tags = tuple(getattr(args, "thinking_tags", TAGS))
    return ColumnNames(args.response_column, args.prompt_column, args.language_column, (tags[0], tags[1]))


def read_rows(source: str, column: str, limit: int | None, columns: ColumnNames | None = None) -> list[Row]:
    """Read rows, and convert the file's columns so that each row has a `response` or a `prompt`.

    Args:
        source: a file, a folder or a hub id.
        column: `response`, a text, or `prompt`, a text or messages.
        limit: number of rows to read; None: all.
        columns: the file's column names; default: the usual names.

    Raises: ValueError: a row lacks this column. The message lists the row's columns and says what to do.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}.")
    columns = columns or ColumnNames()
    rows: list[Row] = []
    read = load_rows(source, limit=limit)
    failed = 0
    for number, row in enumerate(read, start=1):
        where = f"{source}, row {number}"
        found = list(answers_in(row, where, columns)) if column == "response" else [_prompt_row(row, where, columns)]
        failed += not found
        rows += found
    if failed:
        print(
            f"{source}: {failed} of {len(read)} requests failed. They have no answer and are left out.", file=sys.stderr
        )
    if not rows:
        raise ValueError(f"{source}: all {len(read)} requests failed; there is no answer in it.")
    return rows


def _prompt_row(row: Row, where: str, columns: ColumnNames) -> Row:
    row = with_prompt(under_our_names(row, where, columns), where)
    row = prompt_of_chat({"prompt": row["text"]} if set(row) == {"text"} else row, where)
    if not isinstance(row.get("prompt"), (str, list)):
        present = ", ".join(map(repr, row))
        raise ValueError(
            f"{where}: no text in column 'prompt'; the columns present are {present}. The usual names are 'prompt', "
            f"'instruction', 'question' and 'messages'; rename the column, or name it with --prompt-column if the "
            f"command has that option."
        )
    return row


def load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer; that of its base model for a folder of an adapter without one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(_with_tokenizer(name))
    except OSError as error:
        raise FileNotFoundError(f"cannot load {name}: {error}") from error


def load_model(name: str, *, dtype: str, device: Any, adapter: str | None = None) -> Any:
    """Load a model, optionally with a PEFT adapter, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    try:
        tokenizer = load_tokenizer(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        if adapter:
            try:
                from peft import PeftModel
            except ImportError as error:
                raise ValueError('--adapter needs peft: pip install "sae-posttrain[peft]".') from error
            model = PeftModel.from_pretrained(model, adapter)
    except OSError as error:
        raise FileNotFoundError(f"cannot load {adapter or name}: {error}") from error
    return model.to(device), tokenizer


def _with_tokenizer(name: str) -> str:
    """Where the model's tokenizer is. A folder of an adapter may have none; its base model's serves."""
    described = Path(name, "adapter_config.json")
    if not described.is_file() or any(Path(name).glob("tokenizer*")):
        return name
    base = json.loads(described.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return str(base) if base else name
