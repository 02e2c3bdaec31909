"""What a server is told besides prompts and settings, and the log-probabilities that vLLM's server returns."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("openai")

from openai_server import Answer, FakeServer, chat, completion, refusal, served

from sae_posttrain.metrics.messages import message_text
from sae_posttrain.sampling import (
    Endpoint,
    FailedSample,
    KeptResponses,
    Response,
    SampleRequest,
    SamplingSettings,
    ServerEngine,
    describe_run,
    sample_run,
)

SHORT = SamplingSettings(max_new_tokens=5, seed=3)


def engine_of(server: FakeServer, **options: Any) -> ServerEngine:
    return ServerEngine(Endpoint(server.url, "tiny"), **options)


def only(engine: ServerEngine, request: SampleRequest, settings: SamplingSettings = SHORT) -> Response | FailedSample:
    ((_, found),) = next(iter(engine.sample([request], settings)))
    return found


def test_token_ids_are_completed_as_they_are_whatever_the_template() -> None:
    settings = SamplingSettings(max_new_tokens=5, system="Be brief.", chat_template_args={"enable_thinking": False})
    with served(FakeServer(lambda *_: (200, completion("b", [4])))) as server:
        found = only(engine_of(server), SampleRequest([5, 6, 7]), settings)
    assert found == Response("b", "length", 1, (4,), "vllm 9.9")
    ((path, body),) = server.asked
    assert (path, body["prompt"]) == ("/v1/completions", [5, 6, 7])
    assert "chat_template_kwargs" not in body


def test_what_plugins_are_told_reaches_the_server_and_is_never_left_out() -> None:
    def strict(path: str, body: dict[str, Any]) -> Answer:
        if "top_k" in body:
            return 400, refusal("Unrecognized request argument: top_k")
        return 200, chat("a")

    with served(FakeServer(strict)) as server:
        assert isinstance(only(engine_of(server), SampleRequest("a", 0, {"steering_alpha": 2.5})), Response)
        only(engine_of(server), SampleRequest("a"))
    assert [body.get("vllm_xargs") for _, body in server.asked] == [{"steering_alpha": 2.5}] * 2 + [None] * 2


def test_other_thinking_tags_are_another_run(tmp_path: Any) -> None:
    """The responses hold the tags, so a run with others must not go on with them."""

    def answered(**tags: Any) -> list[list[Response]]:
        engine = engine_of(server, join_reasoning=message_text, **tags)
        run = describe_run(["?"], engine.identity(), [], samples=1)
        with KeptResponses(tmp_path / "out.jsonl", run) as kept:
            return sample_run(engine, ["?"], SHORT, samples=1, kept=kept, progress=False).in_order()

    with served(FakeServer(lambda *_: (200, chat("4", reasoning_content="2 + 2")))) as server:
        first = answered()
        with pytest.raises(ValueError, match=r'another run: thinking tags was \["<think>".*, now \["<r>"'):
            answered(thinking_tags=("<r>", "</r>"))
        assert answered() == first
        (tmp_path / "out.partial.jsonl").unlink()
        assert answered(thinking_tags=("<r>", "</r>"))[0][0].text == "<r>2 + 2</r>4"
    assert first[0][0].text == "<think>2 + 2</think>4"


def scored(path: str, body: dict[str, Any]) -> Answer:
    """As vLLM: the first token has no log-probability; each other token has minus a tenth of itself."""
    told = [None, *({str(token): {"logprob": -token / 10, "rank": 1}} for token in body["prompt"][1:])]
    found = completion("x")
    found["choices"][0]["prompt_logprobs"] = told
    return 200, found


def test_the_log_probabilities_of_responses_come_from_prompts() -> None:
    with served(FakeServer(scored)) as server:
        found = engine_of(server).logprobs([([1, 2], [3, 4]), ([5], []), ([6], [7])])
    assert found == [[-0.3, -0.4], [], [-0.7]]
    bodies = {tuple(body["prompt"]): body for _, body in server.asked}
    assert set(bodies) == {(1, 2, 3, 4), (5,), (6, 7)}
    assert all(body["prompt_logprobs"] == 0 and body["max_tokens"] == 1 for body in bodies.values())


def test_a_response_that_fills_the_context_is_scored_without_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(scored)
    model = {"id": "tiny", "object": "model", "created": 0, "owned_by": "vllm", "max_model_len": 4}
    monkeypatch.setattr(server, "get", lambda path: (200, {"object": "list", "data": [model]}))
    with served(server):
        assert engine_of(server).logprobs([([1, 2], [3, 4])]) == [[-0.3]]
    assert server.asked[0][1]["prompt"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, completion("x")), "does not return the log-probabilities of a prompt's tokens"),
        ((400, refusal("Unknown field.")), "refuses a request for log-probabilities: .*Unknown field"),
    ],
)
def test_a_server_that_cannot_score_is_told(answer: Answer, message: str) -> None:
    with served(FakeServer(lambda *_: answer)) as server, pytest.raises(ValueError, match=message):
        engine_of(server).logprobs([([1], [2])])
