"""Sampling with a real vLLM, in this process and as a server on this machine: `nox -s vllm` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from vllm_world import CONTEXT, LETTERS, ON_CPU, OPTIONS, save_model, serving

from sae_posttrain.metrics import repetition_rate
from sae_posttrain.sampling import (
    Endpoint,
    FailedSample,
    Response,
    SamplingSettings,
    ServerEngine,
    TransformersEngine,
    sample_run,
)

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROMPTS = [LETTERS[start : start + 1 + start % 5] for start in range(0, 75, 6)]
GREEDY = SamplingSettings(0.0, 1.0, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vllm")
    save_model(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def on_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in ON_CPU.items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def vllm(folder: Path, on_cpu: None) -> Any:
    from sae_posttrain.sampling.vllm import VllmEngine

    return VllmEngine(str(folder / "model"), dtype="float32", chat=False, options=OPTIONS)


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersEngine:
    model = tf.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    return TransformersEngine(model, tf.AutoTokenizer.from_pretrained(folder / "model"), batch_size=64)


@pytest.fixture(scope="module")
def server(folder: Path, on_cpu: None) -> Iterator[Endpoint]:
    with serving(folder) as endpoint:
        yield endpoint


def answers(engine: Any, settings: SamplingSettings = GREEDY, samples: int = 1) -> list[list[Response]]:
    run = sample_run(engine, PROMPTS, settings, samples=samples, progress=False)
    assert not run.failures
    return run.in_order()


def ids(found: list[list[Response]]) -> list[list[tuple[int, ...]]]:
    return [[one.ids for one in responses] for responses in found]


def assert_alike(found: list[list[Response]], expected: list[list[Response]]) -> None:
    """The same tokens, texts, ends and lengths, and so the same rates."""
    assert ids(found) == ids(expected)
    told = [
        [[(one.text, one.finish_reason, one.tokens) for one in some] for some in both] for both in (found, expected)
    ]
    assert told[0] == told[1]
    reports = [
        repetition_rate([one.text for some in both for one in some], ended=[one.ended for some in both for one in some])
        for both in (found, expected)
    ]
    assert reports[0].to_dict() == reports[1].to_dict()


def test_vllm_in_process_gives_the_tokens_of_transformers(vllm: Any, reference: TransformersEngine) -> None:
    expected = answers(reference)
    assert_alike(answers(vllm), expected)
    assert {one.finish_reason for (one,) in expected} == {"stop", "length"}, "both ways to end are compared"
    assert all((one.engine or "").startswith("vllm 0.") for (one,) in answers(vllm))


def test_vllm_serve_gives_the_tokens_of_transformers(server: Endpoint, reference: TransformersEngine) -> None:
    found = answers(ServerEngine(server, chat=False))
    assert_alike(found, answers(reference))
    assert all((one.engine or "").startswith("vllm 0.") for (one,) in found)


def test_a_chat_with_a_system_message_and_template_values(
    server: Endpoint, vllm: Any, reference: TransformersEngine
) -> None:
    settings = SamplingSettings(0.0, 1.0, 16, system="Q", chat_template_args={"think": True}, stop=("e", "是"))
    reference.chat = vllm.chat = True
    try:
        expected = answers(reference, settings)
        assert_alike(answers(vllm, settings), expected)
        found = answers(ServerEngine(server), settings)
    finally:
        reference.chat = vllm.chat = False
    assert ids(found) == ids(expected)
    assert [one.text for (one,) in found] == [one.text for (one,) in expected]
    assert any(one.finish_reason == "stop" for (one,) in expected)


def test_the_models_own_defaults_change_nothing(server: Endpoint, vllm: Any) -> None:
    """Its generation config asks for top_k 1 and a penalty: samples of one prompt would be equal."""
    settings = SamplingSettings(1.5, 1.0, 12)
    for engine in (vllm, ServerEngine(server, chat=False)):
        found = answers(engine, settings, samples=4)
        assert all(len(set(some)) == 4 for some in ids(found))
        assert ids(answers(engine, settings, samples=4)) == ids(found), "seeds of their own"


def test_a_prompt_that_is_too_long_fails_alone(server: Endpoint, vllm: Any) -> None:
    prompts = ["a", "b" * 400, "c"]
    for engine in (vllm, ServerEngine(server, chat=False)):
        run = sample_run(engine, prompts, GREEDY, samples=1, progress=False)
        assert list(run.failures) == [(1, 0)]
        assert run.count() == 2
        assert FailedSample(run.failures[1, 0]).error


def test_given_tokens_are_scored_alike(vllm: Any, server: Endpoint, reference: TransformersEngine) -> None:
    """Also a response that fills the context, whose last token vLLM cannot score."""
    tokenizer = reference.tokenizer
    some = [
        (tokenizer(prompt)["input_ids"], list(one.ids)) for prompt, (one,) in zip(PROMPTS, answers(vllm), strict=True)
    ]
    pairs = [*some, ([5], [7] * (CONTEXT - 1))]
    expected = reference.logprobs(pairs)
    for engine in (vllm, ServerEngine(server, chat=False)):
        found = engine.logprobs(pairs)
        assert [len(one) for one in found] == [len(ids) for _, ids in some] + [CONTEXT - 2]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs[: len(ours)], abs=1e-3)


def test_a_lora_adapter_takes_part(folder: Path, reference: TransformersEngine) -> None:
    """The last of these tests: at its end vLLM closes what all engines of a process share."""
    from peft import PeftModel

    from sae_posttrain.sampling.vllm import VllmEngine

    engine = VllmEngine(str(folder / "model"), str(folder / "adapter"), "float32", chat=False, options=OPTIONS)
    plain = answers(reference)
    adapted: Any = PeftModel.from_pretrained(reference.model, folder / "adapter")
    expected = answers(TransformersEngine(adapted, reference.tokenizer, batch_size=64))
    adapted.unload()
    assert ids(expected) != ids(plain)
    assert_alike(answers(engine), expected)
