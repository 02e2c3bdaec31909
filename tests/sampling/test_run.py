"""Whole runs: the same responses whatever the batches and processes are, and after every stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import qwen3, word_tokenizer

from sae_posttrain.sampling import (
    FailedSample,
    KeptResponses,
    Response,
    SampleRequest,
    SamplingProgress,
    SamplingSettings,
    TransformersEngine,
    describe_run,
    sample_requests,
    sample_responses,
    sample_run,
)
from sae_posttrain.sampling.draw import drawn, uniform_numbers
from sae_posttrain.sampling.engine import checksum
from sae_posttrain.sampling.response import decode

WORDS = [f"w{number}" for number in range(60)]
PROMPTS = ["w1", "w2 w3 w4", "w5 w6", "w7 w8 w9 w10", "w11", "w12 w13"]
SETTINGS = SamplingSettings(1.0, 0.9, 12, top_k=30)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer(WORDS, "<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return (
        qwen3(len(tokenizer), seed=1, initializer_range=0.3).double().eval()
    )  # so that no rounding tells batches apart


def ids(found: list[list[Response]]) -> list[list[tuple[int, ...]]]:
    return [[one.ids for one in responses] for responses in found]


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_responses_do_not_depend_on_their_batch(model: Any, tokenizer: Any, batch_size: int) -> None:
    expected = sample_responses(model, tokenizer, PROMPTS, SETTINGS, samples=4, batch_size=3, progress=False)
    found = sample_responses(model, tokenizer, PROMPTS, SETTINGS, samples=4, batch_size=batch_size, progress=False)
    assert ids(found) == ids(expected)
    assert len({one for responses in ids(found) for one in responses}) > 20


def test_more_samples_keep_the_first_ones(model: Any, tokenizer: Any) -> None:
    two, four = (sample_run(engine(model, tokenizer), PROMPTS, SETTINGS, samples=n, progress=False) for n in (2, 4))
    assert ids(two.in_order()) == [found[:2] for found in ids(four.in_order())]


def engine(model: Any, tokenizer: Any, **options: Any) -> TransformersEngine:
    return TransformersEngine(model, tokenizer, **{"batch_size": 4, **options})


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_and_the_responses_stay_the_same(
    model: Any, tokenizer: Any, processes: int
) -> None:
    expected = sample_run(engine(model, tokenizer), PROMPTS, SETTINGS, samples=3, progress=False)
    together: list[dict[int, Response]] = [{} for _ in PROMPTS]
    for process in range(processes):
        share = engine(model, tokenizer, process=process, processes=processes)
        run = sample_run(share, PROMPTS, SETTINGS, samples=3, progress=False)
        assert 0 < run.count() < expected.count()
        for whole, part in zip(together, run.responses, strict=True):
            assert not whole.keys() & part.keys(), "two processes sampled one response"
            whole.update(part)
    assert together == expected.responses


def test_the_engine_is_told(model: Any, tokenizer: Any) -> None:
    run = sample_run(engine(model, tokenizer), PROMPTS[:1], SETTINGS, samples=1, progress=False)
    assert (run.responses[0][0].engine or "").startswith("transformers 5.")


def test_a_run_with_kept_responses_samples_only_the_others(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(TransformersEngine):
        def sample(self, requests: Any, settings: Any, done: Any = (), progress: Any = None) -> Iterator[Any]:
            for group in super().sample(requests, settings, done, progress):
                calls.append(len(group))
                yield group

    counting = Counting(model, tokenizer, batch_size=4)
    description = describe_run(PROMPTS, counting.identity(), [{}], 2)
    whole = sample_run(counting, PROMPTS, SETTINGS, samples=2, progress=False)
    assert calls == [4, 4, 4]
    calls.clear()
    with KeptResponses(tmp_path / "out.jsonl", description) as kept:
        some = {(0, prompt, sample): whole.responses[prompt][sample] for prompt, sample in ((0, 0), (3, 0), (3, 1))}
        kept.add(some)
        run = sample_run(counting, PROMPTS, SETTINGS, samples=2, kept=kept, progress=False)
    assert run.responses == whole.responses
    assert sum(calls) == 12 - 3
    with KeptResponses(tmp_path / "out.jsonl", description) as kept:
        assert len(kept.found) == 12


class Broken:
    """Fails for some requests, and is interrupted after some groups."""

    name, gives_ids = "broken 1", False

    def __init__(self, interrupt_after: int = 99) -> None:
        self.interrupt_after = interrupt_after

    def identity(self) -> dict[str, Any]:
        return {}

    def sample(self, requests: Any, settings: Any, done: Any = (), progress: Any = None) -> Iterator[Any]:
        for number, place in enumerate(range(len(requests))):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            if place not in done:
                yield [(place, FailedSample("It is too long.") if place == 2 else Response(f"r{place}", "stop", 1))]


def test_what_fails_is_told_and_the_rest_is_kept() -> None:
    run = sample_run(Broken(), ["a", "b"], SETTINGS, samples=2, progress=False)
    assert [[one.text for one in found] for found in run.in_order()] == [["r0", "r1"], ["r3"]]
    assert run.failures == {(1, 0): "It is too long."}


def test_an_interrupt_gives_what_there_is() -> None:
    run = sample_run(Broken(interrupt_after=2), ["a", "b"], SETTINGS, samples=2, progress=False)
    assert run.interrupted
    assert run.count() == 2


def test_other_weights_have_another_checksum(tokenizer: Any) -> None:
    one, same, other = (qwen3(len(tokenizer), seed=seed) for seed in (1, 1, 2))
    assert checksum(one) == checksum(same) != checksum(other)
    assert checksum(one.double()) != checksum(same)


def test_a_stop_text_ends_a_response_and_is_left_out(model: Any, tokenizer: Any) -> None:
    plain = sample_responses(model, tokenizer, PROMPTS, SETTINGS, samples=2, progress=False)
    whole = plain[0][0]
    stop = whole.text.split()[5]  # a word of it
    settings = SamplingSettings(1.0, 0.9, 12, top_k=30, stop=(stop, "never"))
    found = sample_responses(model, tokenizer, PROMPTS, settings, samples=2, progress=False)
    for one, other in zip(chain.from_iterable(found), chain.from_iterable(plain), strict=True):
        ends = [n for n in range(len(other.ids) + 1) if stop in decode(tokenizer, other.ids[:n])]
        assert one.ids == (other.ids[: ends[0]] if ends else other.ids)
        assert one.text == other.text.partition(stop)[0]
        assert one.finish_reason == ("stop" if ends else other.finish_reason)
        assert one.tokens == len(one.ids)
    assert {one.finish_reason for one in chain.from_iterable(found)} == {"stop", "length"}


def test_a_stop_text_in_the_prompt_stops_nothing(model: Any, tokenizer: Any) -> None:
    greedy = SamplingSettings(0.0, 1.0, 4)
    plain = sample_responses(model, tokenizer, WORDS[10:], greedy, progress=False)
    word, expected = next(pair for pair in zip(WORDS[10:], plain, strict=True) if pair[0] not in pair[1][0].text)
    settings = SamplingSettings(0.0, 1.0, 4, stop=(word,))
    assert sample_responses(model, tokenizer, [word], settings, progress=False) == [expected]


def test_a_system_message_and_values_for_the_template(model: Any, tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m.content }} {% endfor %}{% if think %}w20{% endif %}"
    tokenizer.chat_template = template
    try:
        settings = SamplingSettings(0.0, 1.0, 4, system="w30", chat_template_args={"think": True})
        expected = sample_responses(model, tokenizer, ["w30 w1 w20"], SamplingSettings(0.0, 1.0, 4), progress=False)
        found = sample_responses(model, tokenizer, ["w1"], settings, chat=True, progress=False)
        own = [{"role": "system", "content": "w30"}, {"role": "user", "content": "w1"}]
        assert found == expected == sample_responses(model, tokenizer, [own], settings, progress=False)
    finally:
        tokenizer.chat_template = None
    with pytest.raises(ValueError, match="system needs the chat template"):
        sample_responses(model, tokenizer, ["w1"], settings, progress=False)


def test_tokens_without_a_chance_are_never_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(200, 500, generator=generator)
    logits_BV[:, ::2] = -torch.inf
    for edge in (torch.zeros(200, 1), torch.full((200, 1), 1 - 2**-24), torch.rand(200, 1, generator=generator)):
        found_B1 = drawn(logits_BV, edge)
        assert ((found_B1 >= 0) & (found_B1 < 500)).all()
        assert (found_B1 % 2 == 1).all()


def test_uniform_numbers_belong_to_their_seed() -> None:
    together, alone = uniform_numbers([3, 4, 5], 1000), uniform_numbers([4], 1000)
    assert torch.equal(together[1], alone[0])
    assert together.min() >= 0
    assert together.max() < 1
    assert abs(float(together.mean()) - 0.5) < 0.03


def test_speed_is_shown() -> None:
    seconds = iter([0.0, 0.0, *[10.0] * 20])
    bar = SamplingProgress(40, 100, disable=True, clock=lambda: next(seconds))
    bar.add(20, 1500)
    assert bar._state() == "20 of 40 responses, 2 responses/s, 150 tokens/s"


def test_an_engine_follows_what_each_request_says(model: Any, tokenizer: Any) -> None:
    seen: list[list[Any]] = []

    @contextmanager
    def around(batch: Any) -> Iterator[None]:
        seen.append([request.extra_args.get("number") for request in batch])
        yield

    requests = {(0, n, 0): SampleRequest("w1 w2", n, {"number": n}) for n in range(5)}
    answers = sample_requests(engine(model, tokenizer, batch_size=2, around=around), requests, SETTINGS)
    assert list(answers.found) == list(requests)
    assert seen == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="only an engine with `around` can follow"):
        sample_requests(engine(model, tokenizer), requests, SETTINGS)


def test_token_ids_are_the_texts_they_encode(model: Any, tokenizer: Any) -> None:
    ids = [tokenizer(text)["input_ids"] for text in PROMPTS]
    texts = sample_responses(model, tokenizer, PROMPTS, SETTINGS, samples=2, progress=False)
    assert sample_responses(model, tokenizer, ids, SETTINGS, samples=2, progress=False) == texts


def test_places_give_seeds_and_must_differ(model: Any, tokenizer: Any) -> None:
    whole = sample_responses(model, tokenizer, PROMPTS, SETTINGS, samples=2, progress=False)
    part = sample_run(engine(model, tokenizer), PROMPTS[2:4], SETTINGS, samples=2, progress=False, places=[2, 3])
    assert part.in_order() == whole[2:4]
    with pytest.raises(ValueError, match="places must be different"):
        sample_run(engine(model, tokenizer), PROMPTS[:2], SETTINGS, progress=False, places=[1, 1])


def test_log_probabilities_are_those_of_a_forward_pass(model: Any, tokenizer: Any) -> None:
    pairs: Any = [([3, 4, 5], [6, 7]), ([8], [9])]
    expected = []
    for prompt, response in pairs:
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        expected.append([float(logits[len(prompt) - 1 + at, token]) for at, token in enumerate(response)])
    found = engine(model, tokenizer).logprobs(pairs)
    assert [one for some in found for one in some] == pytest.approx([one for some in expected for one in some])
