"""The log-probabilities of given tokens, from vLLM's server: it returns those of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .connection import UNREADABLE, Connection


class Scoring:
    """Requests for the log-probabilities of responses; each response is sent as the end of a prompt.

    Args:
        connection: the server.
        pairs: prompts with their responses, both as token ids.
    """

    def __init__(self, connection: Connection, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        self.connection, self.pairs = connection, pairs

    async def one(self, place: int) -> tuple[int, list[float]]:
        """The log-probability of each token of a response, with its place."""
        from openai import APIConnectionError, APIStatusError

        prompt, response = self.pairs[place]
        limit = self.connection.context
        ids = [*prompt, *response][: limit - 1 if limit else None]  # the server must generate one more token
        try:
            found: Any = await self.connection.client.completions.create(
                model=self.connection.endpoint.model,
                prompt=ids,
                max_tokens=1,
                temperature=0.0,
                extra_body={"prompt_logprobs": 0},
            )
        except APIConnectionError as error:
            self.connection.gone(error)
        except APIStatusError as error:
            self.connection.refuse(error)
            raise ValueError(
                f"The server at {self.connection.endpoint.url} refuses a request for log-probabilities: "
                f"{self.connection.safe(error)}"
            ) from None
        except UNREADABLE:
            found = None
        try:
            told: Any = found.choices[0].prompt_logprobs
        except UNREADABLE:
            told = None
        if not isinstance(told, list) or len(told) != len(ids):
            raise ValueError(
                f"The server at {self.connection.endpoint.url} does not return the log-probabilities of a prompt's "
                "tokens. Use a vLLM server, or an engine in this process."
            )
        behind = range(len(prompt), len(ids))
        return place, [float(told[at][str(ids[at])]["logprob"]) for at in behind]
