"""The engine for servers, against a server on this machine: what it sends, and what it does when things go wrong."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

pytest.importorskip("openai")

from openai_server import Answer, FakeServer, chat, completion, refusal, served

from sae_posttrain.metrics.messages import message_text
from sae_posttrain.sampling import (
    Endpoint,
    FailedSample,
    Response,
    SamplingSettings,
    ServerEngine,
    ServerGone,
    ask_server,
)
from sae_posttrain.sampling.requests import requests_for
from sae_posttrain.sampling.server import MOST_FAILURES

SHORT = SamplingSettings(max_new_tokens=5, seed=3)


def echo(path: str, body: dict[str, Any]) -> Answer:
    """Says the last message again."""
    if path.endswith("/chat/completions"):
        return 200, chat(body["messages"][-1]["content"])
    return 200, completion(body["prompt"], [7, 8])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own waits between tries, a hundred times shorter."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)


def endpoint(server: FakeServer, **options: Any) -> Endpoint:
    return Endpoint(server.url, "tiny", **options)


def test_every_prompt_gets_its_answer_and_the_servers_version() -> None:
    with served(FakeServer(echo)) as server:
        found = ask_server(endpoint(server, concurrency=4), [f"prompt {i}" for i in range(30)], SHORT)
    assert found == [Response(f"prompt {i}", "stop", 3, engine="vllm 9.9") for i in range(30)]
    assert server.most_at_once <= 4


def test_as_many_requests_are_under_way_as_allowed() -> None:
    together = threading.Barrier(6)

    def wait(path: str, body: dict[str, Any]) -> Answer:
        together.wait(timeout=60)  # breaks, and fails the request, unless six are there at once
        return echo(path, body)

    with served(FakeServer(wait)) as server:
        found = ask_server(endpoint(server, concurrency=6), ["a"] * 12, SHORT)
    assert all(isinstance(one, Response) for one in found)
    assert server.most_at_once == 6


def test_all_settings_reach_the_server() -> None:
    settings = SamplingSettings(0.7, 0.9, 11, 40, 0.05, 5, ("END",), "Be brief.", {"enable_thinking": False})
    with served(FakeServer(echo)) as server:
        ask_server(endpoint(server), ["Hi."], settings)
    (path, body) = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body.pop("messages") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    assert body == {
        **{"model": "tiny", "temperature": 0.7, "top_p": 0.9, "max_tokens": 11, "stop": ["END"]},
        **{"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.0, "return_token_ids": True},
        "chat_template_kwargs": {"enable_thinking": False},
        "seed": requests_for(["Hi."], settings, 1)[0].seed,
    }


def test_what_changes_nothing_is_sent_too_since_servers_have_other_defaults() -> None:
    with served(FakeServer(echo)) as server:
        ask_server(endpoint(server), ["Hi."], SHORT)
    body = server.asked[0][1]
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_samples_of_a_prompt_have_seeds_of_their_own() -> None:
    with served(FakeServer(echo)) as server:
        engine = ServerEngine(endpoint(server, concurrency=1))
        list(engine.sample(requests_for(["a", "b"], SHORT, 3), SHORT))
    assert len({body["seed"] for _, body in server.asked}) == 6


def test_a_plain_text_is_completed_and_brings_token_ids() -> None:
    with served(FakeServer(echo)) as server:
        (found,) = ask_server(endpoint(server), ["once"], SHORT, chat=False)
    assert server.asked[0][0] == "/v1/completions"
    assert found == Response("once", "length", 2, (7, 8), "vllm 9.9")


def test_a_system_message_without_a_chat_is_refused() -> None:
    settings = SamplingSettings(system="Be brief.")
    with served(FakeServer(echo)) as server, pytest.raises(ValueError, match="system needs the chat template"):
        ask_server(endpoint(server), ["once"], settings, chat=False)


def test_reasoning_that_the_server_keeps_apart_can_be_joined() -> None:
    with served(FakeServer(lambda *_: (200, chat("4", reasoning_content="2 + 2")))) as server:
        engine = ServerEngine(endpoint(server), join_reasoning=message_text)
        ((_, found),) = next(iter(engine.sample(requests_for(["?"], SHORT, 1), SHORT)))
    assert isinstance(found, Response)
    assert found.text == "<think>2 + 2</think>4"


@pytest.mark.parametrize(
    ("told", "kept"), [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter", None)]
)
def test_why_a_response_ended(told: str, kept: str | None) -> None:
    with served(FakeServer(lambda *_: (200, chat("a", told)))) as server:
        (found,) = ask_server(endpoint(server), ["?"], SHORT)
    assert isinstance(found, Response)
    assert found.finish_reason == kept


def test_one_prompt_that_the_server_refuses_leaves_the_others() -> None:
    def picky(path: str, body: dict[str, Any]) -> Answer:
        long = body["messages"][-1]["content"] == "long"
        return (400, refusal("The prompt is longer than the context.")) if long else echo(path, body)

    with served(FakeServer(picky)) as server:
        found = ask_server(endpoint(server), ["a", "long", "b"], SHORT)
    assert isinstance(found[1], FailedSample)
    assert "longer than the context" in found[1].error
    assert [found[0], found[2]] == [Response(text, "stop", 3, engine="vllm 9.9") for text in "ab"]


def test_a_run_ends_when_every_request_fails() -> None:
    with (
        served(FakeServer(lambda *_: (400, refusal("no")))) as server,
        pytest.raises(ValueError, match=f"The last {MOST_FAILURES} requests"),
    ):
        ask_server(endpoint(server, concurrency=2), ["a"] * 500, SHORT)
    assert len(server.asked) < 2 * MOST_FAILURES


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([(503, refusal("busy")), (429, refusal("slow down")), (0, None)])
    with served(FakeServer(lambda path, body: next(answers, None) or echo(path, body))) as server:
        (found,) = ask_server(endpoint(server), ["a"], SHORT)
    assert found == Response("a", "stop", 3, engine="vllm 9.9")
    assert len(server.asked) == 4


def test_a_server_may_go_away_for_a_while() -> None:
    def three_times(path: str, body: dict[str, Any]) -> Answer:
        return echo(path, body) if len(old.asked) <= 3 else (0, None)

    def restart() -> None:
        with served(new, old.port):
            finished.wait(timeout=60)

    old, new, finished = FakeServer(three_times), FakeServer(echo), threading.Event()
    found: list[Any] = []
    with served(old):
        engine = ServerEngine(endpoint(old, concurrency=1, retries=50))
        groups = engine.sample(requests_for([f"{i}" for i in range(8)], SHORT, 1), SHORT)
        for _ in range(3):
            found += next(groups)
    thread = threading.Timer(0.3, restart)  # it is gone for this long
    thread.start()
    found += [one for group in groups for one in group]
    finished.set()
    thread.join()
    assert sorted(response.text for _, response in found) == [f"{i}" for i in range(8)]
    assert len(new.asked) == 5


def test_a_server_that_stays_away_ends_the_run_with_a_message() -> None:
    with served(FakeServer(echo)) as server:
        pass
    with pytest.raises(ServerGone, match=r"does not answer, after 2 retries: .* run the same command again"):
        ask_server(endpoint(server, retries=2), ["a"] * 50, SHORT)


def test_a_model_that_the_server_lacks_is_named() -> None:
    with (
        served(FakeServer(echo, models=["other"])) as server,
        pytest.raises(ValueError, match=r"no model 'tiny'.*other"),
    ):
        ask_server(endpoint(server), ["a"], SHORT)
    assert not server.asked


def test_a_server_without_a_list_of_models_is_used() -> None:
    with served(FakeServer(echo, models=None)) as server:
        (found,) = ask_server(endpoint(server), ["a"], SHORT)
    assert found == Response("a", "stop", 3, engine="server")


def test_a_server_that_knows_only_openais_fields(caplog: pytest.LogCaptureFixture) -> None:
    def strict(path: str, body: dict[str, Any]) -> Answer:
        if unknown := [name for name in ("top_k", "min_p") if name in body]:
            return 400, refusal(f"Unrecognized request argument: {unknown[0]}")
        if "max_tokens" in body:
            return 400, refusal("Unsupported parameter: use 'max_completion_tokens' instead.")
        return echo(path, body)

    with served(FakeServer(strict)) as server, caplog.at_level(logging.WARNING):
        found = ask_server(endpoint(server, concurrency=3), ["a"] * 9, SHORT)
    assert all(isinstance(one, Response) for one in found), found
    assert caplog.text.count("refuses one of") == 1


def test_a_setting_that_matters_is_not_left_out() -> None:
    with served(FakeServer(lambda *_: (400, refusal("Unrecognized request argument: top_k")))) as server:
        (found,) = ask_server(endpoint(server), ["a"], SamplingSettings(top_k=5))
    assert isinstance(found, FailedSample)


KEY = "sk-test-1234567890"


def test_the_key_comes_from_its_variable_and_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    quoting = FakeServer(lambda *_: (400, refusal(f"Bad request by {KEY}.")))
    with served(quoting) as server, caplog.at_level(logging.DEBUG):
        (found,) = ask_server(endpoint(server, key_variable="THE_KEY"), ["a"], SHORT)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "openai-organization" not in server.headers[0]
    assert isinstance(found, FailedSample)
    assert "[key]" in found.error
    assert KEY not in found.error + caplog.text + repr(endpoint(server, key_variable="THE_KEY"))


def test_without_a_variable_no_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"OPENAI_API_KEY": KEY, "OPENAI_ADMIN_KEY": KEY, "OPENAI_CUSTOM_HEADERS": f"X-Secret: {KEY}"}
    variables |= {"OPENAI_ORG_ID": "org-of-somebody", "OPENAI_PROJECT_ID": "project-of-somebody"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with served(FakeServer(echo)) as server:
        ask_server(endpoint(server), ["a"], SHORT)
    assert len(server.headers) == 3  # the models, the version, the prompt
    assert KEY not in str(server.headers)
    assert "of-somebody" not in str(server.headers)
    assert {name: os.environ[name] for name in variables} == variables


def test_a_variable_without_a_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(ValueError, match="THE_KEY holds no key"):
        ask_server(Endpoint("http://127.0.0.1:9/v1", "tiny", "THE_KEY"), ["a"], SHORT)


def test_a_refused_key_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    with (
        served(FakeServer(lambda *_: (401, refusal(f"Incorrect API key: {KEY}")))) as server,
        pytest.raises(ValueError, match="refuses the key in THE_KEY") as caught,
    ):
        ask_server(endpoint(server, key_variable="THE_KEY"), ["a"] * 9, SHORT)
    assert KEY not in str(caught.value)


def test_a_key_that_would_go_over_the_net_unencrypted_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    engine = ServerEngine(Endpoint("http://models.example/v1", "tiny", "THE_KEY", retries=0))
    with pytest.raises(ServerGone):
        list(engine.sample(requests_for(["a"], SHORT, 1), SHORT))
    assert "unencrypted" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "endpoint must be an address"),
        ({"url": "https://me:secret@host/v1"}, "no user name or password"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"timeout": 0}, "timeout must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Endpoint(**{"url": "http://localhost/v1", "model": "tiny", **options})
    assert "secret" not in str(caught.value)


def test_stopping_early_cancels_what_is_under_way() -> None:
    released = threading.Event()

    def slow(path: str, body: dict[str, Any]) -> Answer:
        if body["messages"][-1]["content"] != "0":
            released.wait(timeout=60)
        return echo(path, body)

    with served(FakeServer(slow)) as server:
        engine = ServerEngine(endpoint(server, concurrency=2))
        groups: Any = engine.sample(requests_for([f"{i}" for i in range(50)], SHORT, 1), SHORT)
        assert next(groups)[0][0] == 0
        groups.close()  # as an interrupt does
        released.set()
    assert len(server.asked) <= 4
