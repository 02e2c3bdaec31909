"""The rewards as TRL's trainers call them, on plain and conversational completions."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any

import pytest

from sae_posttrain.cli.grpo import RewardArguments, rewards_of
from sae_posttrain.metrics import LoopSettings, Thinking, looped_share
from sae_posttrain.metrics.loops import DEFAULT_LOOPS
from sae_posttrain.training.rewards import CodeSwitchingPenalty, LoopPenalty

LOOP, TEXT = "and so on, " * 12, "The cat sleeps in the sun and dreams of fish."


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def in_blocks(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("shape", [str, said, in_blocks])
def test_a_loop_costs_its_penalty(shape: Any) -> None:
    assert LoopPenalty(-2.0)(["a", "b"], [shape(LOOP), shape(TEXT)], trainer_state=None) == [-2.0, 0.0]


def test_token_ids_are_read_on_request() -> None:
    loop, ended = [7, 8] * 30, [7, 8] * 30 + [1]
    tokens = LoopPenalty(unit="tokens")
    assert tokens(["a", "b"], ["", ""], completion_ids=[loop, ended]) == [-1.0, 0.0], "the second one stopped"
    for settings in (LoopSettings(min_tokens=61), LoopSettings(min_repeats=31)):
        assert LoopPenalty(unit="tokens", loop_settings=settings)(["a"], [""], completion_ids=[loop]) == [0.0]
    assert LoopPenalty()(["a"], [""], completion_ids=[loop]) == [0.0], "by default the text is read"


def test_a_loop_that_the_model_ended_costs_nothing() -> None:
    ids = [[7, 8, 2], [7, 8, 9], [], [5]]
    penalty = LoopPenalty(eos_token_id=[2, 5])
    assert penalty(["?"] * 4, [LOOP] * 4, completion_ids=ids) == [0.0, -1.0, -1.0, 0.0]
    assert LoopPenalty(eos_token_id=2)(["?"] * 4, [LOOP] * 4, completion_ids=ids) == [0.0, -1.0, -1.0, -1.0]
    assert LoopPenalty()(["?"] * 4, [LOOP] * 4, completion_ids=ids) == [-1.0] * 4, "not known: taken for cut"


def test_a_graded_penalty_is_the_share_inside_loops() -> None:
    half = TEXT + LOOP
    share = looped_share(half)
    assert 0.4 < share < 0.99
    graded = LoopPenalty(-2.0, graded=True, eos_token_id=2)
    left = LOOP + "until it stopped, and then we all went home, each of us by another way than that on which we came."
    found = graded(["?"] * 5, [half, TEXT, left, LOOP, LOOP], completion_ids=[[3], [3], [2], [3], [2]])
    assert found == pytest.approx([-2 * share, 0.0, -2 * looped_share(left), -2 * looped_share(LOOP), 0.0])
    assert found[2] < -0.5, "a loop that was left again counts though the model ended the answer"


def test_near_loops_cost_on_request() -> None:
    near = "".join(
        f"And so we said it {'again' if n % 3 else 'anew'} and again{'.!?'[n * n % 7 % 3]} " for n in range(40)
    )
    assert LoopPenalty()(["?"], [near]) == [0.0]
    assert LoopPenalty(near_loops=True)(["?"], [near]) == [-1.0]
    assert LoopPenalty(near_loops=True)(["?"], [TEXT]) == [0.0]
    (graded,) = LoopPenalty(near_loops=True, graded=True)(["?"], [TEXT + near])
    assert -1.0 < graded < -0.5
    assert LoopPenalty(near_loops=True, eos_token_id=1)(["?"], [near], completion_ids=[[1]]) == [0.0]


@pytest.mark.parametrize("shape", [str, said, in_blocks])
def test_a_switch_costs_its_penalty(shape: Any) -> None:
    prompts = [shape("Как дела?"), shape("How are you?"), shape("Что значит 谢谢?"), shape("Как дела?")]
    completions = [shape("Хорошо, 谢谢!"), shape("Fine, 谢谢!"), shape("谢谢 значит спасибо."), shape("Fine, спасибо.")]
    found = CodeSwitchingPenalty(-0.5)(prompts, completions, language=["ru", "en", "ru", "ru"])
    assert found == [-0.5, -0.5, 0.0, 0.0], "a switch, a switch, a quotation, an English word"


def test_only_switches_into_what_is_asked_for_count() -> None:
    completions = ["Хорошо, 谢谢!", "Хорошо, 감사합니다!", "Хорошо, thanks!"]
    prompts = ["?"] * 3
    assert CodeSwitchingPenalty(language="ru", to="ko")(prompts, completions) == [0.0, -1.0, 0.0]
    assert CodeSwitchingPenalty(language="ru", to=["Latn", "zh"])(prompts, completions) == [-1.0, 0.0, -1.0]


def test_a_graded_penalty_is_the_share_of_words() -> None:
    completions = ["one two three 答案", "答案答案", "one", "```py\n答案\n```"]
    prompts = ["?"] * 4
    assert CodeSwitchingPenalty(-2.0, language="en", graded=True)(prompts, completions) == [-0.5, -2.0, 0.0, 0.0]
    assert CodeSwitchingPenalty(language="en", graded=True, to="ru")(prompts, completions) == [0.0] * 4


def test_a_configuration_can_grade_it() -> None:
    chosen = RewardArguments(rewards=["code_switching_penalty"], code_switching_graded=True, code_switching_to=["zh"])
    (reward,) = rewards_of(chosen, SimpleNamespace(max_completion_length=4096, loop_settings=DEFAULT_LOOPS))
    assert reward(["?"], ["one two three 答案 и"], language=["en"]) == [-0.2]


@pytest.mark.parametrize("column", ["allowed", "languages"])
def test_a_row_may_allow_languages(column: str) -> None:
    allowed = {column: [["zh"], "zh, ru", None]}
    completions = ["It is 你好.", "It is 你好 и ответ.", "It is 你好."]
    assert CodeSwitchingPenalty()(["?"] * 3, completions, language=["en"] * 3, **allowed) == [0.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("options", "completion", "reward"),
    [
        ({}, "The torque is Δφ · 2πσ.", 0.0),
        ({}, "`打印`", 0.0),
        ({"ignore_code": False}, "`打印`", -1.0),
        ({"ignore_urls": False}, "https://x.org/wiki/中文", -1.0),
        ({}, "Miyazaki (宮崎 駿)", -1.0),
        ({"ignore_glosses": True}, "Miyazaki (宮崎 駿)", 0.0),
        ({"allowed": ["Hani"]}, "是", 0.0),
        ({"to": "zh", "han_without_kana": True}, "日本語です", 0.0),
        ({}, "What 谢谢 means", 0.0),
        ({"ignore_prompt": False}, "What 谢谢 means", -1.0),
    ],
)
def test_the_options_of_the_rate_are_those_of_the_reward(options: Any, completion: str, reward: float) -> None:
    assert CodeSwitchingPenalty(language="en", **options)(["谢谢?"], [completion]) == [reward]


def test_latin_counts_on_request() -> None:
    assert CodeSwitchingPenalty(language="zh", count_latin=True)(["?"], ["用 GPU"]) == [-1.0]


def test_a_completion_of_unknown_language_is_not_scored() -> None:
    assert CodeSwitchingPenalty()(["?", "?"], ["谢谢", "谢谢"], language=[None, "en"]) == [None, -1.0]
    assert CodeSwitchingPenalty(language="ru")(["?", "?"], ["谢谢", "谢谢"], language=[None, "zh"]) == [-1.0, 0.0]


def test_what_a_tool_says_is_no_switch() -> None:
    completion = [
        *said("Looking it up."),
        {"role": "tool", "name": "search", "content": "谢谢"},
        *said("It says thanks."),
    ]
    assert CodeSwitchingPenalty(language="en")(["?"], [completion]) == [0.0]


def test_what_a_tool_says_is_no_loop() -> None:
    completion = [*said("Looking."), {"role": "tool", "name": "search", "content": LOOP}]
    for graded in (False, True):
        assert LoopPenalty(graded=graded)(["?"], [completion]) == [0.0]


def thought(text: str) -> list[dict[str, Any]]:
    """As TRL's response schemas part it, and as servers give it."""
    thinking, _, answer = text.partition("</think>")
    return [{"role": "assistant", "reasoning_content": thinking.removeprefix("<think>"), "content": answer}]


@pytest.mark.parametrize("shape", [str, said, in_blocks, thought])
def test_thinking_and_answer_count_as_chosen(shape: Any) -> None:
    completions = [shape("<think>谢谢?</think>Thanks."), shape("<think>Thanks?</think>谢谢.")]
    expected = {"both": [-1.0, -1.0], "strip": [0.0, -1.0], "only": [-1.0, 0.0]}
    for choice, found in expected.items():
        assert CodeSwitchingPenalty(language="en", thinking=choice)(["?"] * 2, completions) == found
    completions = [shape(f"<think>{LOOP}</think>Thanks."), shape(f"<think>Hm.</think>{LOOP}")]
    expected = {"both": [0.0, -1.0], "strip": [0.0, -1.0], "only": [0.0, 0.0]}
    for choice, found in expected.items():
        assert LoopPenalty(thinking=choice)(["?"] * 2, completions) == found, "thinking that was closed has ended"


def test_thinking_that_is_not_closed_may_loop() -> None:
    expected = {"both": [-1.0], "strip": [0.0], "only": [-1.0]}
    for choice, found in expected.items():
        assert LoopPenalty(thinking=choice)(["?"], [f"<think>{LOOP}"]) == found


def test_token_ids_do_not_tell_thinking_from_the_answer() -> None:
    completions, ids = [f"<think>{LOOP}</think>Thanks."], [[7, 8] * 60]
    assert LoopPenalty(thinking="strip")(["?"], completions, completion_ids=ids) == [0.0]
    tagged = Thinking("only", tags=("[", "]"))
    assert LoopPenalty(thinking=tagged)(["?"], [f"[{LOOP}"], completion_ids=ids) == [-1.0]


@pytest.mark.parametrize(
    "reward",
    [LoopPenalty(-0.5, loop_settings=LoopSettings(min_length=8)), CodeSwitchingPenalty(language="en", to=["zh"])],
)
def test_rewards_reach_a_spawned_worker_and_have_a_name(reward: Any) -> None:
    again = ForkingPickler.loads(ForkingPickler.dumps(reward))
    arguments = (["?"] * 2, [LOOP, "Well, 谢谢"])
    assert again(*arguments) == reward(*arguments) != [0.0, 0.0]
    assert again.__name__ in ("loop_penalty", "code_switching_penalty")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoopPenalty(thinking="none"), "thinking must be one of both, strip, only"),
        (lambda: LoopPenalty(1.0), "must be 0 or below, got 1.0"),
        (lambda: LoopPenalty(float("nan")), "must be 0 or below, got nan"),
        (lambda: CodeSwitchingPenalty(0.1), "must be 0 or below"),
        (lambda: CodeSwitchingPenalty(language="xx"), "xx"),
        (lambda: CodeSwitchingPenalty(to="xx"), "xx"),
        (lambda: CodeSwitchingPenalty(to=[]), "`to` is empty"),
        (lambda: CodeSwitchingPenalty(language="en")(["?"], ["?"], allowed=["xx"]), "column 'allowed'"),
        (lambda: CodeSwitchingPenalty()(["?"], ["?"]), "The language of the completions is not known"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
