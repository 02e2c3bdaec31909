"""One sampled response: its text, why it ended, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "length"]
"""`stop`: it ended with an end-of-sequence token or a text of `stop`. `length`: it was cut at the token limit."""


@dataclass(frozen=True)
class Response:
    """A response as an engine gave it; the names are those of OpenAI's and vLLM's outputs.

    Args:
        text: what was said, without special tokens.
        finish_reason: why it ended; None when the engine did not tell.
        tokens: how many tokens were generated, with the end-of-sequence token if there is one; None when not known.
        ids: the generated token ids, with that end-of-sequence token; empty when the engine gave only text.
        engine: the program that generated it, with its version; None when not known.

    Example:
        >>> Response("Yes.", "stop", tokens=3).ended
        True
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
        """Whether the model ended the response by itself; None when not known."""
        return None if self.finish_reason is None else self.finish_reason == "stop"

    def to_row(self) -> dict[str, str | int | None]:
        """The columns of a file of responses that hold it."""
        told = {} if self.engine is None else {"engine": self.engine}
        return {"response": self.text, "finish_reason": self.finish_reason, "tokens": self.tokens, **told}

    def cut(self, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> Response:
        """The response as it would have been under a limit of `max_tokens`; itself where it is no longer than that.

        Raises: ValueError when the token ids are not known.
        """
        if self.tokens is None or len(self.ids) != self.tokens:
            raise ValueError("Only a response with its token ids can be cut.")
        if self.tokens <= max_tokens:
            return self
        ids = self.ids[:max_tokens]
        return replace(self, text=decode(tokenizer, ids), finish_reason="length", tokens=max_tokens, ids=ids)


def decode(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    """The text of token ids, without special tokens, otherwise as it is."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
