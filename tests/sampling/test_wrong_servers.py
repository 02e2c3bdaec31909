"""What is at the address may be no server of the protocol."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("openai")

from openai_server import FakeServer, chat, served

from sae_posttrain.sampling import Endpoint, FailedSample, SamplingSettings, ask_server

PAGE = b"<html><body>Bad gateway</body></html>"


@pytest.mark.parametrize(
    ("answer", "says"),
    [(PAGE, "'<html><body>Bad gateway"), (b"", "Expecting value"), (b'{"choices": [', "Expecting value"), ([], "")],
)
def test_an_answer_of_another_kind_is_a_failure(answer: Any, says: str) -> None:
    with served(FakeServer(lambda path, body: (200, answer))) as server:
        (found,) = ask_server(Endpoint(server.url, "tiny"), ["a"], SamplingSettings())
    assert isinstance(found, FailedSample)
    assert found.error.startswith("The server's answer is not that of OpenAI's protocol")
    assert says in found.error


@pytest.mark.parametrize("page", [PAGE, b"", b"[1]"])
def test_an_address_without_the_protocol_is_named(page: bytes) -> None:
    with (
        served(FakeServer(lambda path, body: (200, chat("hi")), models=page)) as server,
        pytest.raises(ValueError, match=r"does not speak OpenAI's protocol: .* usually ends in /v1"),
    ):
        ask_server(Endpoint(server.url, "tiny"), ["a"], SamplingSettings())
