"""Convert rows of other tools to our columns: `response`, `prompt`, and optionally `language` and `finish_reason`.

The input may be columns of texts or messages, whole chats, or server outputs: OpenAI's chat completions, text
completions and batch outputs. vLLM, SGLang and others write the same formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.messages import message_text, text_of
from ..metrics.thinking import TAGS
from ..texts import Row

RESPONSES = ("response", "completion", "output", "generated_text", "text")
"""Columns that may hold the answer, in order of preference. `text` is last because it may also hold the prompt."""
PROMPTS = ("prompt", "instruction", "question")
_CHATS = ("messages", "conversations")
# These fields do not describe the answer.
_OF_BATCH = ("id", "response", "error")
_OF_SERVER = ("id", "object", "created", "choices", "usage", "service_tier", "system_fingerprint", "prompt_logprobs")
_ROLES = {"human": "user", "gpt": "assistant"}  # as ShareGPT calls them


@dataclass(frozen=True)
class ColumnNames:
    """The names of a file's columns. With None, the usual names are tried.

    Args:
        response, prompt, language: names of columns.
        tags: tags to put around the reasoning when a message stores it in a separate field.
    """

    response: str | None = None
    prompt: str | None = None
    language: str | None = None
    tags: tuple[str, str] = TAGS


def answers_in(row: Mapping[str, Any], where: str, columns: ColumnNames) -> Iterator[Row]:
    """Convert one row of a file to our rows. A server's row gives one row per choice, and none for a failed request.

    Raises: ValueError: the row has no answer. The message lists its columns and the option that selects one.
    """
    row = under_our_names(row, where, columns)
    body = None if columns.response else _completion_of(row)
    if body is not None:
        yield from _choices(row, body, where, columns.tags)
        return
    chat = next((name for name in _CHATS if isinstance(row.get(name), list)), None)
    column = columns.response or next((name for name in RESPONSES if _is_answer(row.get(name))), None)
    column = None if column == "text" and chat is not None and not columns.response else column
    rest = with_prompt(row, where)
    if column is None and chat is not None:
        messages = _messages(row[chat], where, chat)
        last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1) + 1
        if all(message["role"] != "assistant" for message in messages[last:]):
            raise ValueError(f"{where}: {chat!r} holds no answer: no assistant message follows the last question.")
        given = {"prompt": messages[:last]} if last and "prompt" not in row else {}
        yield {**_without(rest, chat), **given, "response": text_of(messages[last:], "assistant", columns.tags)}
        return
    if column is None or not _is_answer(row.get(column)):
        raise ValueError(_no_answer(row, where, column))
    value = row[column]
    text = value if isinstance(value, str) else text_of(_messages(value, where, column), "assistant", columns.tags)
    yield _renamed(rest, column, "response", text)


def with_prompt(row: Row, where: str) -> Row:
    """The row with its prompt in the column `prompt`, if one of the usual columns contains a prompt.

    Raises: ValueError: the prompt is neither a text nor a list of messages.
    """
    name = next((name for name in PROMPTS if isinstance(row.get(name), (str, list))), None)
    if row.get("prompt") is not None and not isinstance(row["prompt"], (str, list)):
        raise ValueError(
            f"{where}: 'prompt' holds a {type(row['prompt']).__name__}; expected a text or a list of messages."
        )
    if name is None:
        return row
    prompt = row[name] if isinstance(row[name], str) else _messages(row[name], where, name)
    if name == "instruction" and isinstance(row.get("input"), str) and row["input"]:
        prompt = f"{prompt}\n{row['input']}"
    return _renamed(row, name, "prompt", prompt)


def prompt_of_chat(row: Row, where: str) -> Row:
    """The row with a prompt from its `messages`, without the answer that may end them."""
    chat = next((name for name in _CHATS if isinstance(row.get(name), list)), None)
    if "prompt" in row or chat is None:
        return row
    messages = _messages(row[chat], where, chat)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return {**_without(row, chat), "prompt": messages}


def under_our_names(row: Mapping[str, Any], where: str, columns: ColumnNames) -> Row:
    """The row with the user's named columns renamed to our column names.

    Raises: ValueError: there is no column of that name.
    """
    found = dict(row)
    for ours in ("prompt", "language"):
        name = getattr(columns, ours)
        if name is not None:
            if name not in row:
                raise ValueError(f"{where}: no column {name!r} (--{ours}-column); {_present(row)}.")
            found = _renamed(found, name, ours, row[name])
    if columns.response is not None and columns.response not in row:
        raise ValueError(f"{where}: no column {columns.response!r} (--response-column); {_present(row)}.")
    return found


def _completion_of(row: Row) -> Mapping[str, Any] | None:
    """The server's response body with `choices`: the row itself or a part of it. Empty for a failed request."""
    if isinstance(row.get("choices"), list):
        return row
    held = row.get("response")
    if isinstance(held, Mapping):
        body = held.get("body", held)
        if isinstance(body, Mapping) and isinstance(body.get("choices"), list):
            return body
        if int(held.get("status_code") or 200) >= 400:
            return {}
    return {} if held is None and "custom_id" in row and row.get("error") is not None else None


def _choices(row: Row, body: Mapping[str, Any], where: str, tags: tuple[str, str]) -> Iterator[Row]:
    choices = body.get("choices") or []
    request = row.get("custom_id") or body.get("id")
    kept = {name: value for name, value in row.items() if name not in ("choices", "response", "usage", "error")}
    if body is row:  # the server's own fields say nothing about the answer
        kept = {
            name: value for name, value in kept.items() if name not in ("id", "object", "created", "prompt_logprobs")
        }
    asked = row.get("request")
    if isinstance(asked, Mapping) and "prompt" not in kept:
        kept = {**_without(kept, "request"), **_asked(asked.get("body", asked), where)}
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) and len(choices) == 1 else None
    for choice in choices:
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if isinstance(message, Mapping):
            text = message_text(message, tags)
        elif isinstance(choice, Mapping) and isinstance(choice.get("text"), str):
            text = choice["text"]
        else:
            raise ValueError(f"{where}: a choice has neither 'message' nor 'text': {choice!r:.80}.")
        told = {"finish_reason": choice.get("finish_reason"), "tokens": tokens}
        yield {
            **with_prompt(kept, where),
            **({"custom_id": request} if request else {}),
            **{name: value for name, value in told.items() if value is not None},
            "response": text,
        }


def _asked(body: Any, where: str) -> Row:
    if not isinstance(body, Mapping):
        return {}
    prompt = body.get("messages", body.get("prompt"))
    return {"prompt": _messages(prompt, where, "request") if isinstance(prompt, list) else prompt} if prompt else {}


def _messages(value: Sequence[Any], where: str, name: str) -> list[dict[str, Any]]:
    """The messages without their empty fields. Table formats add the fields of all messages to each message."""
    found = []
    for message in value:
        if isinstance(message, Mapping) and "from" in message:
            message = {"role": message["from"], "content": message.get("value")}
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"{where}: {name!r} holds a list with {message!r:.40}; expected messages such as "
                f'{{"role": "user", "content": "…"}}.'
            )
        role = _ROLES.get(message["role"], message["role"])
        found.append({**{key: held for key, held in message.items() if held is not None}, "role": role})
    return found


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)
    )


def _no_answer(row: Mapping[str, Any], where: str, column: str | None) -> str:
    if column is not None:
        return f"{where}: --response-column {column} holds a {type(row[column]).__name__}, not a text or messages."
    asked = "Use --response-column to name the column with the answers."
    usual = next((name for name in RESPONSES if name in row), None)
    if usual is not None:
        kind = "nothing" if row[usual] is None else f"a {type(row[usual]).__name__}"
        return f"{where}: no text in column {usual!r}, which holds {kind}; {_present(row)}. {asked}"
    return f"{where}: no text in column 'response'; {_present(row)}. {asked}"


def _present(row: Mapping[str, Any]) -> str:
    return f"the columns present are {', '.join(map(repr, row))}"


def _renamed(row: Mapping[str, Any], name: str, ours: str, value: Any) -> Row:
    """The row with column `name` replaced by our column `ours` and the given value."""
    kept = {key: held for key, held in row.items() if key == name or key != ours}
    return {(ours if key == name else key): (value if key == name else held) for key, held in kept.items()}


def _without(row: Mapping[str, Any], name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}
