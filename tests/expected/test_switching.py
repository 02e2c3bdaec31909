"""Expected switches against brute force: every token, every position, and every answer that a tiny model can give."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from tiny_models import qwen3, word_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from sae_posttrain.expected import Setting, expected_switch_rate, switch_probabilities
from sae_posttrain.metrics.expectation import ExpectedSwitch

WORDS = "the cat sees a house 猫 看见 кот 한국 α β ねこ café"
SETTINGS = [Setting(), Setting(1.3, 1.0), Setting(1.0, 0.7), Setting(0.5, 0.9), Setting(temperature=0)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([WORDS], "<pad>", "<end>")


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    made = qwen3(len(tokenizer) + 3).eval()  # logits beyond the vocabulary, as real models have
    with torch.no_grad():
        made.lm_head.weight.mul_(8)  # probabilities that are far from alike
    return made


def distribution(model: Qwen3ForCausalLM, ids: list[int], setting: Setting) -> torch.Tensor:
    """Of the token after these, by transformers' own processors."""
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[:, -1].float()
    if setting.temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), scores.shape[-1]).double()
    scores = TemperatureLogitsWarper(setting.temperature)(None, scores)
    if setting.top_p < 1:
        scores = TopPLogitsWarper(setting.top_p)(None, scores)
    return scores.softmax(-1)[0].double()


def by_hand(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    answer: str,
    setting: Setting,
    leaving: set[str],
    own: set[str] = frozenset({"猫", "看见", "кот", "한국", "α", "β", "ねこ"}),
) -> float:
    ids, answer_words = tokenizer(prompt)["input_ids"], answer.split()
    stays = []
    for place, word in enumerate(answer_words):
        if word not in own:
            before = [*ids, *tokenizer.convert_tokens_to_ids(answer_words[:place])]
            chances = distribution(model, before, setting)
            stays.append(1 - sum(float(chances[tokenizer.convert_tokens_to_ids(word)]) for word in leaving))
    return 1 - prod(stays)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_given_answers_against_brute_force(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, setting: Setting
) -> None:
    prompts = ["the cat", "a", "the 猫 house"]
    answers = ["sees a house", "cat sees the 猫 house", "house a café"]
    found = switch_probabilities(
        model, tokenizer, prompts, answers, "en", settings=SETTINGS, batch_size=2, progress=False
    )
    into = {"Hani": {"猫", "看见"}, "Cyrl": {"кот"}, "Hang": {"한국"}, "Hira": {"ねこ"}}
    for prompt, answer, one in zip(prompts, answers, found[setting], strict=True):
        assert one is not None
        assert set(one.into) == set(into)  # Greek is left out, Latin is the language's own
        expected = by_hand(model, tokenizer, prompt, answer, setting, set().union(*into.values()))
        assert one.any == pytest.approx(expected, abs=1e-5)
        assert one.begun == pytest.approx(0, abs=1e-6)
        for script, words in into.items():
            assert one.into[script] == pytest.approx(
                by_hand(model, tokenizer, prompt, answer, setting, words), abs=1e-5
            )


def one_switch(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, **options: object) -> ExpectedSwitch | None:
    options = {"languages": "en", "prompts": ["the"], "responses": ["cat sees"], "progress": False, **options}
    ((one,),) = switch_probabilities(model, tokenizer, **options).values()
    return one


def test_targets_allowed_languages_and_letters_that_are_symbols(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    into = {to: one_switch(model, tokenizer, to=to).into for to in ("zh", "ja", "el", "Cyrl")}
    assert {to: set(scripts) for to, scripts in into.items()} == {
        "zh": {"Hani"},
        "ja": {"Hani", "Hira"},
        "el": {"Grek"},
        "Cyrl": {"Cyrl"},
    }
    assert set(one_switch(model, tokenizer, allowed=[["zh"]]).into) == {"Cyrl", "Hang", "Hira"}
    assert one_switch(model, tokenizer, languages="zh", to="zh") is None
    assert set(one_switch(model, tokenizer, languages="ru", to=["en", "zh"]).into) == {"Latn", "Hani"}
    assert "Latn" in one_switch(model, tokenizer, languages="ru", count_latin=True).into
    assert "Latn" not in one_switch(model, tokenizer, languages="ru").into


def test_where_the_measured_positions_begin_and_end(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The position of the end counts where the model ended the answer; the prompt and what is cut off never do."""
    known = one_switch(model, tokenizer, ended=[True])
    words = {"猫", "看见", "кот", "한국", "ねこ"}
    assert known.any == pytest.approx(by_hand(model, tokenizer, "the", "cat sees <end>", Setting(), words), abs=1e-5)
    assert one_switch(model, tokenizer, ended=[None]).any == one_switch(model, tokenizer).any
    assert one_switch(model, tokenizer, max_tokens=1) == one_switch(model, tokenizer, responses=["cat"])
    # Without a prompt, the first token has no probability.
    alone = one_switch(model, tokenizer, prompts=[None], responses=["the cat sees"])
    assert alone.any == pytest.approx(one_switch(model, tokenizer).any)
    assert one_switch(model, tokenizer, responses=[tokenizer("cat sees")["input_ids"]]) == one_switch(model, tokenizer)


def test_an_answer_without_a_measured_position_does_not_leave(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """It counts, as it does where switches are counted; only the position of its end could be measured."""
    responses, prompts = ["", "", "cat sees"], ["the", "a", "the"]
    options = {"ended": [None, True, None], "progress": False}
    empty, ended, full = switch_probabilities(model, tokenizer, prompts, responses, "en", **options)[Setting()]
    assert (empty.any, empty.into) == (0.0, {})
    assert ended.any > 0
    report = expected_switch_rate(model, tokenizer, prompts, responses, "en", **options)[Setting()]
    assert (report.overall.total, report.skipped) == (3, 0)
    assert report.rate == pytest.approx((ended.any + full.any) / 3)
    assert one_switch(model, tokenizer, responses=[""], languages="zh", to="zh") is None


@pytest.mark.parametrize("setting", [Setting(), Setting(1.2, 0.9)], ids=str)
@pytest.mark.parametrize("to", [None, "zh"])
def test_the_sum_over_sampled_answers_has_the_rate_of_leaving_as_its_mean(setting: Setting, to: str | None) -> None:
    """Exactly: over all answers of three tokens that the model can give, each weighted by its probability."""
    tokenizer = word_tokenizer(["a b 猫 кот"], "<pad>", "<end>")
    model = qwen3(len(tokenizer)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    leaving = tokenizer.convert_tokens_to_ids(["猫"] if to else ["猫", "кот"])
    prompt, answers, weights = tokenizer("a")["input_ids"], [], []
    for ids in product(range(len(tokenizer)), repeat=3):
        weight = prod(float(distribution(model, [*prompt, *ids[:t]], setting)[ids[t]]) for t in range(3))
        if weight > 0:
            answers.append(list(ids))
            weights.append(weight)
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    rate = sum(weight for ids, weight in zip(answers, weights, strict=True) if not set(leaving).isdisjoint(ids))
    assert 0.05 < rate < 0.95
    found = switch_probabilities(
        model,
        tokenizer,
        ["a"] * len(answers),
        answers,
        "en",
        settings=[setting],
        sampled=True,
        to=to,
        batch_size=64,
        progress=False,
    )
    mean = sum(weight * one.any for weight, one in zip(weights, found[setting], strict=True))
    assert mean == pytest.approx(rate, abs=1e-5)


def test_reports_for_each_setting(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    reports = expected_switch_rate(
        model,
        tokenizer,
        ["the", "a", "a"],
        ["cat sees", "house", "猫 看见"],
        ["en", "en", "zh"],
        settings=SETTINGS,
        to="zh",
        progress=False,
    )
    assert list(reports) == SETTINGS
    report = reports[Setting()]
    assert (report.overall.total, report.skipped) == (2, 1)
    assert "Hani" in report.table()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": "xx-nothing"}, "nknown language"),
        ({"prompts": []}, "1 responses but 0 prompts"),
        ({"to": []}, "`to` is empty"),
        ({"sampled": True, "settings": [Setting(), Setting(0.5)]}, "the one setting of the sampling, got 2"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_refusals(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        one_switch(model, tokenizer, **options)
    with pytest.raises(ValueError, match="top_p must be above 0"):
        Setting(top_p=0)
