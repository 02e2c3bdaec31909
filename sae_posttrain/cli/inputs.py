"""What several commands read: a model with its tokenizer, and rows of prompts or responses."""

from __future__ import annotations

import argparse
from typing import Any

from ..metrics.loops import MIN_REPEATS, MIN_TOKENS
from ..texts import load_rows

Row = dict[str, Any]


def add_chat(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="apply the chat template to text prompts (default: when the tokenizer has one); `sft` and `grpo` train on "
        "text prompts as they are, which is --no-chat",
    )


def add_dtype(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32", "float64"),
        default="auto",
        help="of the model (default: %(default)s)",
    )


def add_least(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--min-repeats", type=int, default=MIN_REPEATS, help="whole periods a loop has (default: %(default)s)"
    )
    parser.add_argument("--min-length", type=int, default=MIN_TOKENS, help="tokens a loop has (default: %(default)s)")


def uses_chat(args: argparse.Namespace, tokenizer: Any) -> bool:
    return bool(tokenizer.chat_template) if args.chat is None else args.chat


def read_rows(source: str, column: str, limit: int | None) -> list[Row]:
    """Rows that surely have a text, or a prompt's messages, in a column; a line of a .txt file is the column itself."""
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    rows = []
    for number, row in enumerate(load_rows(source)[:limit], start=1):
        content = row.get(column, row.get("text") if set(row) == {"text"} else None)
        if not (isinstance(content, str) or (column == "prompt" and isinstance(content, list))):
            present = ", ".join(map(repr, row))
            raise ValueError(f"{source}, row {number}: no text in column {column!r}; the columns present are {present}")
        _check_prompt(row.get("prompt"), f"{source}, row {number}")
        rows.append({**row, column: content})
    return rows


def _check_prompt(prompt: Any, where: str) -> None:
    if prompt is None or isinstance(prompt, str):
        return
    if not isinstance(prompt, list):
        raise ValueError(f"{where}: 'prompt' holds a {type(prompt).__name__}; expected a text or a list of messages")
    for message in prompt:
        if not isinstance(message, dict):
            raise ValueError(
                f"{where}: 'prompt' holds a list with {message!r:.40}; expected messages such as "
                f'{{"role": "user", "content": "…"}}'
            )


def load_model(name: str, *, dtype: str, device: Any, adapter: str | None = None) -> Any:
    """A model, perhaps with a PEFT adapter, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        if adapter:
            try:
                from peft import PeftModel
            except ImportError as error:
                raise ValueError('--adapter needs peft: pip install "sae-posttrain[peft]"') from error
            model = PeftModel.from_pretrained(model, adapter)
    except OSError as error:
        raise FileNotFoundError(f"cannot load {adapter or name}: {error}") from error
    return model.to(device), tokenizer
