"""A server with OpenAI's protocol: its address, the settings of requests, and the client that sends them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from .settings import check_counts

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")


class ServerGone(ConnectionError):  # noqa: N818
    """The server did not answer any of the retries."""


@dataclass(frozen=True)
class Endpoint:
    """A server, and how requests are sent to it.

    Args:
        url: address of the protocol's root, such as `http://localhost:8000/v1`. The certificate of an `https` address
            is always verified.
        model: name of the model on the server.
        key_variable: environment variable with the key. The key is read from it at each call, and never written to a
            file. None: no key is sent.
        concurrency: number of requests that are sent at the same time.
        retries: how often a request is repeated after a lost connection, a timeout or a status of 408, 409, 429 or
            500 and above. The waits grow from 0.5 to 8 seconds, or are as long as the server asks for; 20 retries
            take about two minutes. If a server asks for more than two minutes, the request is not repeated.
        timeout: seconds that one response may take.

    Raises:
        ValueError: the URL is not such an address, or a number is below 1.

    Example:
        >>> Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-8B", concurrency=64).model
        'Qwen/Qwen3-8B'
    """

    url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 32
    retries: int = 20
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        address = _address(self.url)
        if address.username or address.password:
            raise ValueError("endpoint must hold no user name or password; name a variable with the key instead.")
        check_counts(concurrency=self.concurrency)
        check_counts(least=0, retries=self.retries)
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {self.timeout}.")

    def key(self) -> str | None:
        """The key, from its variable. Raises: ValueError: the variable is not set, or holds no possible key."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable)
        if not key:
            raise ValueError(f"The environment variable {self.key_variable} holds no key; set it, or name another one.")
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ValueError(
                f"The key in the environment variable {self.key_variable} begins or ends with a space, or holds a line "
                "break or another character that no key has."
            )
        return key


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        known = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        known = False
    if not known or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError(f"endpoint must be an address such as http://localhost:8000/v1, got {url!r}.")
    if address.query or address.fragment:
        raise ValueError(f"endpoint must be an address without what follows a ? or a #, got {url!r}.")
    return address


def client_for(endpoint: Endpoint) -> AsyncOpenAI:
    """A client of OpenAI's library. Raises: ImportError: the library is missing."""
    try:
        import openai
    except ImportError as error:
        raise ImportError('A server needs the openai package: pip install "sae-posttrain[server]".') from error
    key = endpoint.key()
    if key and urlsplit(endpoint.url).scheme == "http" and urlsplit(endpoint.url).hostname not in _OWN_MACHINE:
        logger.warning("The key in %s goes to %s unencrypted; use https.", endpoint.key_variable, endpoint.url)
    with _without_openai_variables():
        return openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=key or "EMPTY",  # as vLLM's documentation says
            max_retries=endpoint.retries,
            timeout=openai.Timeout(endpoint.timeout, connect=10.0),
        )


@contextmanager
def _without_openai_variables() -> Iterator[None]:
    """Hide OpenAI's variables (organisation, project, keys, headers): the library would send them to any server."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OPENAI_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
