"""What is at the address may be no server of the protocol."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytest.importorskip("openai")

from openai_server import Answer, FakeServer, chat, completion, served

from sae_posttrain.sampling import Endpoint, FailedSample, Response, SamplingSettings, ServerEngine, ask_server

PAGE = b"<html><body>Bad gateway</body></html>"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (PAGE, "'<html><body>Bad gateway"),
        (b"", "Expecting value"),
        (b'{"choices": [', "Expecting value"),
        ([], ""),
        (b'{"choices": "\xff"}', "codec can't decode"),
        (b"[" * 200_000, "recursion"),
        ({"choices": []}, "choices are []"),
        ({"choices": [{"text": None}]}, "the text is None"),
        ({"choices": [{"text": 5}]}, "the text is 5"),
        ({"choices": None}, "choices are None"),
    ],
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


@pytest.mark.parametrize("page", [b'{"data": ["tiny"]}', b'{"data": [{"id": null}]}', b'{"data": [null]}', b"\xff"])
def test_a_list_of_something_else_is_no_list_of_models(page: bytes) -> None:
    with (
        served(FakeServer(lambda path, body: (200, chat("hi")), models=page)) as server,
        pytest.raises(ValueError, match=r"does not speak OpenAI.s protocol"),
    ):
        ask_server(Endpoint(server.url, "tiny"), ["a"], SamplingSettings())


def test_a_number_of_tokens_that_is_none_is_not_known() -> None:
    told = [None, "many", -1, 3.5, float("inf"), 3.0, 4]

    def answer(path: str, body: dict[str, Any]) -> Answer:
        tokens = told[int(body["messages"][0]["content"])]
        return 200, {**chat("hi"), "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1}}

    with served(FakeServer(answer)) as server:
        found = ask_server(Endpoint(server.url, "tiny"), [f"{i}" for i in range(len(told))], SamplingSettings())
    known = [None, None, None, None, None, 3, 4]
    assert found == [Response("hi", "stop", one, engine="vllm 9.9") for one in known]


def test_token_ids_that_are_none_are_left_out() -> None:
    told: list[Any] = [["token:1", "token:2"], [1.5], 7, {"1": 2}]
    with served(FakeServer(lambda path, body: (200, completion("hi", told[int(body["prompt"])])))) as server:
        prompts = [f"{i}" for i in range(len(told))]
        found = ask_server(Endpoint(server.url, "tiny"), prompts, SamplingSettings(), chat=False)
    assert found == [Response("hi", "length", engine="vllm 9.9")] * len(told)


@pytest.mark.parametrize(
    ("says", "cause"),
    [("break", "Server disconnected"), ("wait", "it takes longer than the timeout of 0.5 seconds")],
)
def test_a_request_that_is_never_answered_costs_no_other(says: str, cause: str) -> None:
    """A prompt that takes too long, or at which a server's worker falls over, as long as the server answers others."""

    def answer(path: str, body: dict[str, Any]) -> Answer:
        if "bad" not in json.dumps(body):
            return 200, chat("hi")
        if says == "wait":
            time.sleep(1)
        return 0, None

    with served(FakeServer(answer)) as server:
        settings = Endpoint(server.url, "tiny", retries=0, timeout=0.5)
        first, failed, last = ask_server(settings, ["a", "bad", "c"], SamplingSettings())
    assert isinstance(first, Response)
    assert isinstance(last, Response)
    assert isinstance(failed, FailedSample)
    assert failed.error.startswith(f"The server does not answer this request, after 0 retries: {cause}")


def test_a_prompt_that_cannot_be_encoded_costs_no_other() -> None:
    with served(FakeServer(lambda path, body: (200, chat("hi")))) as server:
        first, failed, last = ask_server(Endpoint(server.url, "tiny"), ["a", "b \ud83d", "c"], SamplingSettings())
    assert isinstance(failed, FailedSample)
    assert "lone surrogate" in failed.error
    assert first == last == Response("hi", "stop", 3, engine="vllm 9.9")


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret", "sk-secr\u00e9t", "sk-sec\tret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would try it for minutes, and then quote it."""
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(ValueError, match="The key in the environment variable THE_KEY") as caught:
        ask_server(Endpoint("http://127.0.0.1:9/v1", "tiny", "THE_KEY"), ["a"], SamplingSettings())
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "such as http"),
        ("http://localhost:99999/v1", "such as http"),
        ("http://localhost:port/v1", "such as http"),
        ("http://[::1/v1", "such as http"),
        ("http://local host/v1", "such as http"),
        ("http://localhost/v1?key=1", "without what follows a ?"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match="endpoint must be an address") as caught:
        Endpoint(url, "tiny")
    assert message in str(caught.value)


def test_log_probabilities_that_cannot_be_read_are_told() -> None:
    with (
        served(FakeServer(lambda path, body: (200, b"{"))) as server,
        pytest.raises(ValueError, match="does not return the log-probabilities"),
    ):
        ServerEngine(Endpoint(server.url, "tiny")).logprobs([([1], [2])])
