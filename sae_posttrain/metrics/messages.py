"""Prompts and completions as plain text, whether they are stored as text or as chat messages.

`measure`, `report`, the rewards and the callbacks all use these functions. Otherwise one prompt could get two different
keys, and the intervals, which count prompts, would differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from .thinking import TAGS

Message: TypeAlias = Mapping[str, Any]
"""A chat message: `role`, `content`, and in some formats the reasoning in a separate field."""

_REASONING = ("reasoning_content", "reasoning", "thinking")  # field names that servers and TRL use


def message_text(message: Message, tags: tuple[str, str] = TAGS) -> str:
    """The text of one chat message: its reasoning between tags, if it is in a separate field, and its content.

    Args:
        message: `content` is a text or a list of blocks. `reasoning_content`, `reasoning` or `thinking` is optional.
        tags: opening and closing tag to put around the reasoning.

    Example:
        >>> message_text({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"})
        '<think>2 + 2</think>4'
    """
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        blocks = (block for block in content if isinstance(block, Mapping))
        content = "\n".join(block.get("text") or "" for block in blocks if block.get("type") in (None, "text"))
    reasoning = next((message[key] for key in _REASONING if isinstance(message.get(key), str) and message[key]), "")
    content = content if isinstance(content, str) else ""
    return f"{tags[0]}{reasoning}{tags[1]}{content}" if reasoning else content


def text_of(turns: str | Sequence[Message] | None, role: str | None = None, tags: tuple[str, str] = TAGS) -> str:
    """A prompt or a completion as text. Chat messages become their texts, one per line.

    Args:
        turns: a text, chat messages, or None for no text.
        role: use only the messages of this role. Default: all.
        tags: opening and closing tag to put around reasoning that is in a separate field.

    Example:
        >>> text_of([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}], "assistant")
        'Hello.'
    """
    if turns is None or isinstance(turns, str):
        return turns or ""
    return "\n".join(message_text(turn, tags) for turn in turns if role in (None, turn.get("role")))


def clusters_of(rows: Sequence[Mapping[str, Any]]) -> list[Hashable]:
    """The cluster of each row. Responses to the same prompt are dependent, so intervals draw whole clusters.

    Args:
        rows: one row per response. Rows with the same `prompt` are one cluster. Rows without a prompt are one cluster
            if they have the same `custom_id`, which names the request that a server answered. A row with neither is a
            cluster of its own.

    Example:
        >>> clusters_of([{"prompt": "Hi"}, {"prompt": [{"role": "user", "content": "Hi"}]}, {}])
        ['Hi', 'Hi', 2]
    """
    return [text_of(row.get("prompt")) or row.get("custom_id") or index for index, row in enumerate(rows)]
