"""Loops against a search through every period, and what is no loop."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from loop_cases import every_loop, random_text

from sae_posttrain.metrics import Loop, LoopSettings, find_loop, find_loops, looped_share

TEXTS = {
    "en": "The cat sat down near the old door and looked at the rain, which had not stopped since the morning. ",
    "ru": "Кошка села у старой двери и смотрела на дождь, который не прекращался с самого утра. ",
    "ko": "고양이는 낡은 문 옆에 앉아 아침부터 그치지 않는 비를 바라보았다. ",
    "zh": "猫坐在旧门旁边，看着从早晨起就没有停过的雨，想着昨天的鱼和明天的太阳。",
    "th": "แมวนั่งอยู่ข้างประตูเก่าและมองดูฝนที่ไม่หยุดตกตั้งแต่เช้า",
    "emoji": "👩‍👩‍👧 went 🏃🏽‍♀️ to the 🏖️ and ate 🍦🍉, then 🚗 home 😴. ",
}


TWENTY = LoopSettings(min_length=20, min_tokens=20)


def exact(**least: Any) -> Any:
    return LoopSettings(**least, fold_digits=False)


def test_loops_are_those_of_a_search_through_every_period() -> None:
    rng = random.Random(0)
    with_loops = 0
    for _ in range(6000):
        text = random_text(rng, rng.randint(0, 90), "abcde"[: rng.randint(1, 5)])
        least = {"min_repeats": rng.choice([3, 4, 5, 7]), "min_length": rng.choice([1, 2, 3, 5, 10, 13, 20, 31, 40])}
        expected = every_loop(text, **least)
        settings = exact(**least)
        assert find_loops(text, settings) == expected, (text, least)
        at_end = [loop for loop in expected if loop.end == len(text)]
        assert find_loop(text, settings) == max(at_end, key=lambda loop: loop.length, default=None), (text, least)
        inside = {place for loop in expected for place in range(loop.start, loop.end)}
        assert looped_share(text, settings) == (len(inside) / len(text) if text else 0), (text, least)
        with_loops += bool(expected)
    assert 2000 < with_loops < 5000


@pytest.mark.parametrize(
    ("text", "min_length"),
    [
        ("bababbabbabababbabbabababbababbabababbababbabababbababbab", 5),
        ("bababaabababaabababaabababaabababaabababaabababaababaabababaababaababa", 8),
        ("babaabababaababaabababaababaabababaababbaababbaababbaababbaababbaababbaababbaababbaababb", 8),
    ],
)
def test_loops_that_share_much_of_each_other(text: str, min_length: Any) -> None:
    expected = every_loop(text, 3, min_length)
    assert any(one.end - other.start > one.period for one in expected for other in expected if one.end < other.end)
    assert find_loops(text, exact(min_repeats=3, min_length=min_length)) == expected


def test_ids_are_read_as_characters_are() -> None:
    rng = random.Random(1)
    for _ in range(500):
        text = random_text(rng, rng.randint(0, 200), "abc")
        ids = [1000 * ord(letter) for letter in text]
        assert find_loop(ids, TWENTY) == find_loop(text, TWENTY)
        assert find_loops(tuple(ids), TWENTY) == find_loops(text, TWENTY)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_arrays_and_tensors_are_read_by_value(make: Any) -> None:
    ids = [7, 8, 9] * 20
    assert find_loop(make(ids)) == find_loop(ids) == Loop(0, 60, 3)
    assert looped_share(make(ids)) == 1.0


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_loop_cut_anywhere_is_found_with_its_period(text: str) -> None:
    before = "So it went:"
    for cut in range(1, len(text)):
        response = before + text * 4 + text[:cut]
        assert find_loop(response) == Loop(len(before), len(response), len(text))
        assert find_loop(before + text * 3 + text[:cut]) is None


def test_a_loop_of_one_character_or_emoji() -> None:
    assert find_loop("No" + "o" * 150) == Loop(1, 152, 1)
    assert find_loop("Yes 😀" + "😀" * 150) == Loop(4, 155, 1)
    assert find_loop("哈" * 100) == Loop(0, 100, 1)
    assert find_loop("e\u0301" * 60).period == 2
    assert find_loop("\n" * 300) == Loop(0, 300, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        *TEXTS.values(),
        "What!!!!!!!!!! No way......",
        "ha ha ha ha ha ha ha ha",
        "Heading\n" + "=" * 80,
        "| a | b | c |\n" + "| --- " * 3 + "|",
        "if x:\n" + " " * 40 + "return",
        "la la la la, we sing again\n" * 3,
        "- one apple\n- one pear\n- two plums\n- one apple\n- two pears\n- one plum\n" * 2,
        "1. Wash the apples.\n2. Wash the pears.\n3. Wash the plums.\n4. Wash the grapes.\n5. Wash the cherries.",
    ],
)
def test_what_is_no_loop(text: str) -> None:
    assert find_loop(text) is None
    assert looped_share(text) == 0


def test_a_loop_that_ended_is_not_at_the_end_but_counts_inside() -> None:
    loop = "and so on, " * 20
    text = "It began:" + loop + "until somebody put an end to it."
    assert find_loop(text) is None
    assert find_loops(text) == [Loop(9, 9 + len(loop), 11)]
    assert looped_share(text) == len(loop) / len(text)


def test_white_space_behind_a_loop_is_passed_over() -> None:
    assert find_loop("Well. " + "one more time\n" * 10 + "\n \n") == Loop(6, 145, 14)
    assert find_loop([1, 2] * 30 + [3]) is None


def test_an_end_of_sequence_token_tells_that_the_model_stopped() -> None:
    assert find_loop([4, 5, 6] * 30) is not None
    assert find_loop([*[4, 5, 6] * 30, 0]) is None


def test_the_longest_loop_wins() -> None:
    line = "a" + "-" * 150 + "b"
    text = "Rules: " + (line * 5)[:-1]
    assert find_loop(text) == Loop(7, len(text), len(line))
    assert [loop.period for loop in find_loops(text)] == [len(line), 1, 1, 1, 1, 1]
    assert looped_share(text) == (len(text) - 7) / len(text)


def test_one_more_period_never_hides_a_loop() -> None:
    rng = random.Random(2)
    for _ in range(300):
        unit = "".join(rng.choices("ab \n", k=rng.randint(1, 30)))
        text = random_text(rng, 50, "ab \n") + (unit * 200)[: rng.randint(100, 200)]
        loop = find_loop(text, exact(min_repeats=3))
        for _ in range(3 if loop else 0):
            text += text[loop.end - loop.period : loop.end]
            longer = find_loop(text, exact(min_repeats=3))
            assert longer is not None
            assert longer.length >= loop.length


def test_thresholds_count_whole_periods_and_characters() -> None:
    assert find_loop("abcde" * 20).repeats == 20
    assert find_loop(("abcde" * 20)[:-1]) is None
    assert find_loop("abcde" * 10, LoopSettings(min_length=50)) == Loop(0, 50, 5)
    assert find_loop(TEXTS["en"] * 3, LoopSettings(min_repeats=3)).repeats == 3
    assert find_loop([5] * 49) is None
    assert find_loop([5] * 50).repeats == 50


def fibonacci_word(length: Any) -> Any:
    shorter, longer = "b", "a"
    while len(longer) < length:
        shorter, longer = longer, longer + shorter
    return longer[:length]


@pytest.mark.timeout(60)  # a quadratic search takes hours
@pytest.mark.parametrize(
    ("text", "period", "inside"),
    [
        ("a" * 1_000_000, 1, 1.0),
        ("b" + "a" * 999_999, 1, 0.999999),
        ("a" * 999_999 + "b", None, 0.999999),
        (("a" * 124_999 + "b") * 8, 125_000, 1.0),
        (fibonacci_word(1_000_000), None, 0.0),
        ("".join(random.Random(0).choices("ab", k=250_000)) * 4, 250_000, 1.0),
    ],
    ids=["all same", "all but the first", "all but the last", "eight", "fibonacci", "random"],
)
def test_a_million_characters(text: str, period: Any, inside: Any) -> None:
    loop = find_loop(text)
    assert (loop and loop.period) == period
    assert looped_share(text) == inside


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_repeats": 2}, "min_repeats must be at least 3, got 2: text that occurs twice may be a quotation."),
        ({"min_length": 0}, "min_length must be at least 1, got 0."),
        ({"min_tokens": 0}, "min_tokens must be at least 1, got 0."),
    ],
)
def test_bad_settings_are_named(setting: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopSettings(**setting)
