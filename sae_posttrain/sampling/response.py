"""One sampled response: its text, why it ended, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "length"]
"""`stop`: it ended with an end-of-sequence token or a text of `stop`. `length`: it was cut at the token limit."""


@dataclass(frozen=True)
class Response:
    """One sampled response. The names of the fields are those of OpenAI's and vLLM's outputs.

    Args:
        text: the response's text, without special tokens.
        finish_reason: why it ended; None if the engine does not report it.
        tokens: number of generated tokens, including the end-of-sequence token if there is one; None if not known.
        ids: the generated token ids, including that end-of-sequence token; empty if the engine returns only text.
        engine: the program that generated it, with its version; None if not known.

    Example:
        >>> Response("Yes.", "stop", tokens=3).ended
        True

    Source: the names are those of OpenAI's API and of vLLM.
    """

    text: str
    finish_reason: FinishReason | None = None
    tokens: int | None = None
    ids: tuple[int, ...] = field(default=(), repr=False)
    engine: str | None = None

    def __post_init__(self) -> None:
        if self.finish_reason not in ("stop", "length", None):
            raise ValueError(f"finish_reason must be 'stop', 'length' or None, got {self.finish_reason!r}.")

    @property
    def ended(self) -> bool | None:
        """Whether the model ended the response itself; None if not known."""
        return None if self.finish_reason is None else self.finish_reason == "stop"

    def to_row(self) -> dict[str, str | int | None]:
        """The response as columns of a responses file."""
        told = {} if self.engine is None else {"engine": self.engine}
        return {"response": self.text, "finish_reason": self.finish_reason, "tokens": self.tokens, **told}

    def cut(self, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> Response:
        """The response as a limit of `max_tokens` would have cut it; unchanged if it is not longer than that.

        Raises:
            ValueError: the token ids are not known.
        """
        if self.tokens is None or len(self.ids) != self.tokens:
            raise ValueError("Only a response with its token ids can be cut.")
        if self.tokens <= max_tokens:
            return self
        ids = self.ids[:max_tokens]
        return replace(self, text=decode(tokenizer, ids), finish_reason="length", tokens=max_tokens, ids=ids)


def decode(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    """The text of token ids, without special tokens and otherwise unchanged."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
