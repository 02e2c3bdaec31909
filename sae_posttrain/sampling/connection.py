"""A connection to a server: whether it is there and has the model, which program it is, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from .endpoint import Endpoint, ServerGone

if TYPE_CHECKING:
    from openai import AsyncOpenAI

UNREADABLE = (LookupError, AttributeError, TypeError, ValueError, RecursionError)
"""What the client raises on an answer that is not of the protocol: no JSON, no UTF-8, or JSON of another form."""
_VERSIONS = {
    "vllm": ("version", "version"),
    "sglang": ("get_server_info", "version"),
    "llamacpp": ("props", "build_info"),
}
"""Owner of the models in `/v1/models` → the page that tells the program's version, and its key there."""


class Connection:
    """A client of one server, with messages that name the server and never the key.

    Args:
        endpoint: the server.
        client: OpenAI's client for it.
    """

    def __init__(self, endpoint: Endpoint, client: AsyncOpenAI) -> None:
        self.endpoint, self.client = endpoint, client
        self.program = "server"
        self.context: int | None = None
        """The model's context, if the server tells it."""

    async def begin(self) -> None:
        """Check that the server answers and has the model, and find out which program it is."""
        from openai import APIConnectionError, APIStatusError

        models: list[Any] = []
        try:
            listed: list[Any] = [model async for model in self.client.models.list()]
            models = [model for model in listed if isinstance(model.id, str)]
            if listed and not models:
                raise TypeError("models without names")
        except APIConnectionError as error:
            self.gone(error)
        except APIStatusError as error:
            self.refuse(error)
        except UNREADABLE:  # a web page, or JSON of another kind
            raise ValueError(
                f"{self.endpoint.url} does not speak OpenAI's protocol: its page /models does not return a list of "
                "models. The address usually ends in /v1."
            ) from None
        if models and self.endpoint.model not in {model.id for model in models}:
            there = ", ".join(sorted(model.id for model in models)[:20])
            raise ValueError(f"The server at {self.endpoint.url} has no model {self.endpoint.model!r}; it has {there}.")
        mine = next((model for model in models if model.id == self.endpoint.model), None)
        self.context = getattr(mine, "max_model_len", None)
        owners = (getattr(model, "owned_by", None) for model in models)
        owner = next((one for one in owners if one and isinstance(one, str)), "server")
        self.program = f"{owner} {await self._version(owner)}".strip()

    async def _version(self, owner: str) -> str:
        page, key = _VERSIONS.get(owner, ("", ""))
        if not page:
            return ""
        try:
            root = self.endpoint.url.rstrip("/").removesuffix("/v1")
            # Not `with_options`, which makes a client that reads the environment.
            found: Any = await self.client.get(f"{root}/{page}", cast_to=object, options={"max_retries": 0})
            return str(found.get(key, ""))
        except Exception:  # it only names the version
            return ""

    def refuse(self, error: Any) -> None:
        """End the run if no request can succeed.

        Raises:
            ValueError: the server rejects the key or does not know the model.
        """
        where, status = self.endpoint.url, error.status_code
        if status in (401, 403):
            variable = self.endpoint.key_variable
            told = f"the key in {variable}" if variable else "a request without a key; name the variable that holds one"
            raise ValueError(f"The server at {where} refuses {told} (status {status}).") from None
        if status == 404 and not error.request.url.path.endswith("/models"):
            raise ValueError(f"The server at {where} does not know the model or the page: {self.safe(error)}") from None

    async def broken(self, error: Exception) -> str:
        """What is wrong with a request that was never answered, while the server answers others.

        Raises:
            ServerGone: it does not answer others either.
        """
        from openai import APIConnectionError, OpenAIError

        try:
            await self.client.get("/models", cast_to=object, options={"max_retries": 0, "timeout": 10.0})
        except APIConnectionError:
            self.gone(error)
        except (OpenAIError, *UNREADABLE):
            pass  # it answers
        return f"The server does not answer this request, after {self.endpoint.retries} retries: {self._cause(error)}."

    def _cause(self, error: Exception) -> str:
        from openai import APITimeoutError

        if isinstance(error, APITimeoutError) and "Connect" not in type(error.__cause__).__name__:
            return f"it takes longer than the timeout of {self.endpoint.timeout:g} seconds"
        cause = error.__cause__ or error
        return self._scrubbed(str(cause) or type(cause).__name__).rstrip(".")

    def gone(self, error: Exception) -> NoReturn:
        endpoint = self.endpoint
        raise ServerGone(
            f"The server at {endpoint.url} does not answer, after {endpoint.retries} retries: {self._cause(error)}. "
            "Start it again, and run the same command again."
        ) from None

    def safe(self, error: Exception) -> str:
        return self._scrubbed(str(error)) or type(error).__name__

    def _scrubbed(self, text: str) -> str:
        """Remove the key, which servers quote in their messages."""
        key = self.client.api_key
        return text.replace(key, "[key]") if len(key) > len("EMPTY") else text
