"""Sample from a running server that speaks OpenAI's protocol, such as vLLM, SGLang or llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .background import in_background
from .connection import UNREADABLE, Connection
from .endpoint import Endpoint, client_for
from .progress import SamplingProgress
from .requests import (
    FailedSample,
    Prompt,
    SampleRequest,
    TokenIds,
    as_messages,
    check_plain,
    is_token_ids,
    requests_for,
)
from .response import FinishReason, Response
from .server_body import Body, first_choice, token_ids_of, tokens_of
from .server_scoring import Scoring
from .settings import SamplingSettings

MOST_FAILURES = 20
"""Requests in a row that may fail before the run ends; what fails so often will fail for all."""
_ENDS: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "tool_calls", "function_call"), "stop"),
    "length": "length",
}


def _content(message: dict[str, Any], tags: tuple[str, str]) -> str:
    content: str = message.get("content") or ""
    return content


@dataclass
class ServerEngine:
    """Samples from a server, with many requests at the same time.

    Args:
        endpoint: the server.
        chat: whether text prompts go through the server's chat template. With False they are completed as they are.
        join_reasoning: function from a chat message and the thinking tags to its text; by default the content. The
            reasoning that some servers keep apart is then left out.
        thinking_tags: the tags that `join_reasoning` puts around the reasoning.
    """

    endpoint: Endpoint
    chat: bool = True
    join_reasoning: Callable[[dict[str, Any], tuple[str, str]], str] = _content
    thinking_tags: tuple[str, str] = ("<think>", "</think>")
    gives_ids: bool = field(default=False, init=False)
    name: str = field(default="server", init=False)

    def identity(self) -> dict[str, Any]:
        """The model's name, whether its chat template is used, and the thinking tags, which the responses hold.

        The server's address is no part of it, since the same model may be served elsewhere.
        """
        tags = list(self.thinking_tags) if self.chat else None
        return {"engine": "server", "model": self.endpoint.model, "chat": self.chat, "thinking tags": tags}

    def sample(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        done: Collection[int] = (),
        progress: SamplingProgress | None = None,
    ) -> Iterator[list[tuple[int, Response | FailedSample]]]:
        """Sample as in `SamplingEngine`. If the server rejects a prompt, its result is a `FailedSample`.

        Raises:
            ServerGone: the server cannot be reached any more.
            ValueError: it refuses the key or the model, or too many requests in a row fail.
            ImportError: the `openai` package is missing.
        """
        open_places = [place for place in range(len(requests)) if place not in done]
        client = client_for(self.endpoint)
        asking = _Asking(
            self, Connection(self.endpoint, client), Body(self.endpoint.model, settings), requests, settings
        )
        at_once = self.endpoint.concurrency
        for item in in_background(asking.one, open_places, at_once, before=asking.begin, after=client.close):
            if progress is not None:
                progress.add(1, item[1].tokens or 0 if isinstance(item[1], Response) else 0)
            yield [item]

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """As in `ScoringEngine`. Only vLLM's server returns the log-probabilities of a prompt's tokens.

        Raises:
            ServerGone: the server cannot be reached any more.
            ValueError: it refuses a request, or does not return log-probabilities of prompts.
            ImportError: the `openai` package is missing.
        """
        client = client_for(self.endpoint)
        scoring = Scoring(Connection(self.endpoint, client), pairs)
        at_once, places = self.endpoint.concurrency, range(len(pairs))
        found = in_background(scoring.one, places, at_once, before=scoring.connection.begin, after=client.close)
        return [values for _, values in sorted(found)]


def ask_server(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    *,
    chat: bool = True,
    told: Callable[[int, Response | FailedSample], None] = lambda place, answer: None,
) -> list[Response | FailedSample]:
    """Ask a server for one response to each prompt, with many requests at a time. Other prompts go on if one fails.

    Args:
        endpoint: the server.
        prompts: texts or lists of messages.
        settings: how the responses are sampled.
        chat: whether text prompts go through the server's chat template.
        told: called with the prompt's place and its response as soon as there is one, in any order.

    Returns:
        For each prompt the response, or a `FailedSample` with what went wrong.

    Raises:
        ServerGone: the server cannot be reached.
        ValueError: it refuses the key or the model, or too many requests in a row fail.
        ImportError: the `openai` package is missing.

    Example:
        >>> endpoint = Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-8B", concurrency=16)
        >>> answers = ask_server(endpoint, ["Say hello."], SamplingSettings(max_new_tokens=16))
    """
    found: list[Response | FailedSample] = [FailedSample("It was not asked.")] * len(prompts)
    engine = ServerEngine(endpoint, chat)
    for group in engine.sample(requests_for(prompts, settings, 1), settings):
        for place, answer in group:
            found[place] = answer
            told(place, answer)
    return found


class _Asking:
    """The requests of one run."""

    def __init__(
        self,
        engine: ServerEngine,
        connection: Connection,
        body: Body,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
    ) -> None:
        self.engine, self.connection, self.body = engine, connection, body
        self.requests, self.settings = requests, settings
        self.failures = 0

    async def begin(self) -> None:
        """Check that the server answers and has the model, and find out which program it is."""
        await self.connection.begin()
        self.engine.name = self.connection.program

    async def one(self, place: int) -> tuple[int, Response | FailedSample]:
        """Send the request for one response."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        prompt = self.requests[place].prompt
        chat = not is_token_ids(prompt) and (self.engine.chat or not isinstance(prompt, str))
        if not chat and not is_token_ids(prompt):
            check_plain(self.settings)
        while True:
            options = self.body.options(self.requests[place], chat=chat)
            try:
                answer: Response | FailedSample = self._response(await self._send(prompt, chat, options))
                break
            except APIConnectionError as error:
                answer = FailedSample(await self.connection.broken(error))  # or it ends the run
                break
            except UnicodeEncodeError:
                answer = FailedSample("The prompt holds a lone surrogate, half of a character, which cannot be sent.")
                break
            except APIStatusError as error:
                if self.body.give_way(str(error), error.status_code, options):
                    continue
                self.connection.refuse(error)
                answer = FailedSample(self.connection.safe(error))
                break
            except (OpenAIError, *UNREADABLE) as error:
                answer = FailedSample(
                    f"The server's answer is not that of OpenAI's protocol: {self.connection.safe(error)}"
                )
                break
        self._count(answer)
        return place, answer

    async def _send(self, prompt: Prompt | TokenIds, chat: bool, options: dict[str, Any]) -> Any:
        if not chat:
            text_or_ids: Any = prompt
            return await self.connection.client.completions.create(prompt=text_or_ids, **options)
        messages: Any = as_messages(prompt, self.settings)
        return await self.connection.client.chat.completions.create(messages=messages, **options)

    def _response(self, found: Any) -> Response:
        if isinstance(found, str):  # of a page that is no JSON
            raise TypeError(f"{found.strip()[:80]!r}")
        choice = first_choice(found)
        message = getattr(choice, "message", None)
        if message is None:
            text = choice.text
        else:
            text = self.engine.join_reasoning(message.model_dump(warnings=False), self.engine.thinking_tags)
        if not isinstance(text, str):
            raise TypeError(f"the text is {text!r:.80}")
        ids = token_ids_of(choice)
        return Response(text, _ENDS.get(choice.finish_reason), tokens_of(found, ids), ids, self.engine.name)

    def _count(self, answer: Response | FailedSample) -> None:
        self.failures = self.failures + 1 if isinstance(answer, FailedSample) else 0
        if isinstance(answer, FailedSample) and self.failures >= MOST_FAILURES:
            raise ValueError(f"The last {self.failures} requests to the server failed. The last error: {answer.error}")
