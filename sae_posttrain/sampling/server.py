"""Sample from a running server that speaks OpenAI's protocol, such as vLLM, SGLang or llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, NoReturn

from .background import in_background
from .endpoint import Endpoint, ServerGone, client_for
from .progress import SamplingProgress
from .requests import (
    FailedSample,
    Prompt,
    SampleRequest,
    as_messages,
    check_plain,
    requests_for,
)
from .response import FinishReason, Response
from .server_body import Body
from .settings import SamplingSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_FAILURES = 20
"""Requests in a row that may fail before the run ends; what fails so often will fail for all."""
UNREADABLE = (LookupError, AttributeError, TypeError, JSONDecodeError)
"""What the client raises on an answer that is not of the protocol."""
_ENDS: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "tool_calls", "function_call"), "stop"),
    "length": "length",
}
_VERSIONS = {
    "vllm": ("version", "version"),
    "sglang": ("get_server_info", "version"),
    "llamacpp": ("props", "build_info"),
}
"""Owner of the models in `/v1/models` → the page that tells the program's version, and its key there."""


@dataclass
class ServerEngine:
    """Samples from a server, with many requests at the same time.

    Args:
        endpoint: the server.
        chat: whether text prompts go through the server's chat template. With False they are completed as they are.
        join_reasoning: function from a chat message to its text; by default the content. The reasoning that some
            servers keep apart is then left out.
    """

    endpoint: Endpoint
    chat: bool = True
    join_reasoning: Callable[[dict[str, Any]], str] = lambda message: message.get("content") or ""
    gives_ids: bool = field(default=False, init=False)
    name: str = field(default="server", init=False)

    def identity(self) -> dict[str, Any]:
        """The model's name, and whether its chat template is used; the same model may be served elsewhere."""
        return {"engine": "server", "model": self.endpoint.model, "chat": self.chat}

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
        asking = _Asking(self, client, Body(self.endpoint.model, settings), requests, settings)
        at_once = self.endpoint.concurrency
        for item in in_background(asking.one, open_places, at_once, before=asking.begin, after=client.close):
            if progress is not None:
                progress.add(1, item[1].tokens or 0 if isinstance(item[1], Response) else 0)
            yield [item]


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
        client: AsyncOpenAI,
        body: Body,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
    ) -> None:
        self.engine, self.client, self.body, self.requests, self.settings = engine, client, body, requests, settings
        self.failures = 0

    async def begin(self) -> None:
        """Check that the server answers and has the model, and find out which program it is."""
        from openai import APIConnectionError, APIStatusError

        endpoint, models = self.engine.endpoint, []
        try:
            models = [model async for model in self.client.models.list()]
        except APIConnectionError as error:
            self._gone(error)
        except APIStatusError as error:
            self._refuse(error)
        except UNREADABLE:  # a web page, or JSON of another kind
            raise ValueError(
                f"{endpoint.url} does not speak OpenAI's protocol: its page /models is no list of models. The address "
                "usually ends in /v1."
            ) from None
        if models and endpoint.model not in {model.id for model in models}:
            there = ", ".join(sorted(model.id for model in models)[:20])
            raise ValueError(f"The server at {endpoint.url} has no model {endpoint.model!r}; it has {there}.")
        owner = next((model.owned_by for model in models if model.owned_by), "") or "server"
        self.engine.name = f"{owner} {await self._version(owner)}".strip()

    async def _version(self, owner: str) -> str:
        page, key = _VERSIONS.get(owner, ("", ""))
        if not page:
            return ""
        try:
            root = self.engine.endpoint.url.rstrip("/").removesuffix("/v1")
            # Not `with_options`, which makes a client that reads the environment.
            found: Any = await self.client.get(f"{root}/{page}", cast_to=object, options={"max_retries": 0})
            return str(found.get(key, ""))
        except Exception:  # it only names the version
            return ""

    async def one(self, place: int) -> tuple[int, Response | FailedSample]:
        """Send the request for one response."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        prompt = self.requests[place].prompt
        chat = self.engine.chat or not isinstance(prompt, str)
        if not chat:
            check_plain(self.settings)
        while True:
            options = self.body.options(self.requests[place].seed, chat=chat)
            try:
                answer: Response | FailedSample = self._response(await self._send(prompt, chat, options))
                break
            except APIConnectionError as error:
                self._gone(error)
            except APIStatusError as error:
                if self.body.give_way(str(error), error.status_code, options):
                    continue
                self._refuse(error)
                answer = FailedSample(self._safe(error))
                break
            except (OpenAIError, *UNREADABLE) as error:
                answer = FailedSample(f"The server's answer is not that of OpenAI's protocol: {self._safe(error)}")
                break
        self._count(answer)
        return place, answer

    async def _send(self, prompt: Prompt, chat: bool, options: dict[str, Any]) -> Any:
        if not chat:
            return await self.client.completions.create(prompt=prompt, **options)
        messages: Any = as_messages(prompt, self.settings)
        return await self.client.chat.completions.create(messages=messages, **options)

    def _response(self, found: Any) -> Response:
        if isinstance(found, str):  # of a page that is no JSON
            raise TypeError(f"{found.strip()[:80]!r}")
        choice = found.choices[0]
        message = getattr(choice, "message", None)
        text = choice.text if message is None else self.engine.join_reasoning(message.model_dump())
        usage = getattr(found, "usage", None)
        ids = tuple(getattr(choice, "token_ids", None) or ())
        tokens = usage.completion_tokens if usage is not None else len(ids) or None
        return Response(text, _ENDS.get(choice.finish_reason), tokens, ids, self.engine.name)

    def _count(self, answer: Response | FailedSample) -> None:
        self.failures = self.failures + 1 if isinstance(answer, FailedSample) else 0
        if isinstance(answer, FailedSample) and self.failures >= MOST_FAILURES:
            raise ValueError(f"The last {self.failures} requests to the server failed. The last error: {answer.error}")

    def _refuse(self, error: Any) -> None:
        """End the run if no request can succeed.

        Raises:
            ValueError: the server rejects the key or does not know the model.
        """
        where, status = self.engine.endpoint.url, error.status_code
        if status in (401, 403):
            variable = self.engine.endpoint.key_variable
            told = f"the key in {variable}" if variable else "a request without a key; name the variable that holds one"
            raise ValueError(f"The server at {where} refuses {told} (status {status}).") from None
        if status == 404 and not error.request.url.path.endswith("/models"):
            raise ValueError(
                f"The server at {where} does not know the model or the page: {self._safe(error)}"
            ) from None

    def _gone(self, error: Exception) -> NoReturn:
        endpoint = self.engine.endpoint
        cause = f"{error.__cause__ or error}"
        raise ServerGone(
            f"The server at {endpoint.url} does not answer, after {endpoint.retries} retries: {self._scrubbed(cause)}. "
            "Start it again, and run the same command again."
        ) from None

    def _safe(self, error: Exception) -> str:
        return self._scrubbed(str(error)) or type(error).__name__

    def _scrubbed(self, text: str) -> str:
        """Remove the key, which servers quote in their messages."""
        key = self.client.api_key
        return text.replace(key, "[key]") if len(key) > len("EMPTY") else text
