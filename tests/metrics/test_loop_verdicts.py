"""What is an endless loop and what is none: inputs of the kinds that people report."""

from __future__ import annotations

import random
from typing import Any

import pytest
from loop_cases import every_loop, random_text

from sae_posttrain.metrics import (
    LoopSettings,
    find_loop,
    find_loops,
    find_near_loop,
    find_repetition,
    looped_share,
    repetition_rate,
)
from sae_posttrain.metrics.letters import weight

WAIT = "Wait, let me think again. "
FRUIT = ["apples", "pears", "plums", "nuts", "figs", "dates", "limes", "kiwis"]
FINE = "The train left at noon and nobody on the platform knew where it would go."
NEAR = "".join(f"I will look at the log again{random.Random(n).choice('.!?')} " for n in range(60))
REFRAIN = "The song: Row, row, row your boat\n" + "Row, row, row your boat\n" * 3 + "Gently down the stream."


@pytest.mark.parametrize(
    ("text", "ended", "kind"),
    [
        ("Sure! " + "😂" * 400 + "\ufffd", False, "loop"),
        ("答案是：" + "我们需要重新考虑这个问题。" * 60 + "我们需\ufffd", False, "loop"),
        (WAIT * 60 + "<|im_end|>", False, "loop"),
        (WAIT * 60 + "<｜end▁of▁sentence｜>\n", None, "loop"),
        (WAIT * 60 + "Wait, let</s>", None, "loop"),
        (WAIT * 60 + "<eos>\ufffd <pad><pad>", None, "loop"),
        (WAIT * 60 + "<|im_e", None, "loop"),
        (WAIT * 60 + "...", False, "loop"),
        (WAIT * 60 + "…\n\n", False, "loop"),
        ("**" + WAIT * 60 + "**", None, "loop"),
        ("| a | b |\n|---|---|\n" + "|  |  |\n" * 40, True, None),
        ("| a | b |\n|---|---|\n" + "|  |  |\n" * 40, False, "loop"),
        ("0" * 100, True, None),
        ("0" * 100, None, "loop"),
        ("我知道" * 30, False, "loop"),
        ("你好" * 30, False, "loop"),
        ("你好" * 14, False, None),
        ("はい、" * 20, False, "loop"),
        ("네, 알겠습니다. " * 8, False, "loop"),
        ("да, да, " * 10, False, None),
        ("".join(f"step{n}\n" for n in range(40, 160)), False, "loop"),
        ("".join(f"第{n}步：请稍等一下。\n" for n in range(90, 130)), False, "loop"),
        ("".join(f"Step {n}: wait a little.\n" for n in range(30, 50)), None, "loop"),
        ("".join(f"Step {n}: wait a little.\n" for n in range(1, 30)), None, "loop"),
        ("".join(f"{n - 1} days later came day {n}. " for n in range(95, 110))[:-9], None, "loop"),
        (
            "".join(f"00:00:{n % 60:02},000 --> 00:00:{(n + 2) % 60:02},000\nThanks!\n\n" for n in range(0, 180, 2)),
            None,
            "loop",
        ),
        (REFRAIN, False, None),
        (WAIT * 60 + "So that is how it was, and we went home.", False, "left"),
        (WAIT * 60 + "So that is how it was, and we went home.", True, "left"),
        ("".join(f"I will look at the log again{'.!'[n % 3 == 0]} " for n in range(60)), False, "loop"),
        (NEAR, False, "near-loop"),
        (NEAR, True, "left"),
        (FINE, False, None),
        ("", False, None),
        ("Some text in columns" + " " * 300 + ".", None, None),
        ("Some text" + "\n" * 300, None, "loop"),
        (f"{FINE}\n{'-' * 200}\n{FINE}", None, None),
    ],
)
def test_the_verdict(text: str, ended: Any, kind: str) -> None:
    assert find_repetition(text, ended=ended).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{n}. {item}\n" for n, item in enumerate(FRUIT * 2, 1)),
        "".join(f"Year {1990 + n}: {abs(hash((n, 7)) % 977)} units\n" for n in range(30)),
        "".join(f"| {n} | {n * n * 37 % 101} | {n * 7919 % 1013} |\n" for n in range(40)),
        "7 × 1 = 7, " + ", ".join(f"7 × {n} = {7 * n}" for n in range(2, 30)),
        ", ".join(str(n) for n in range(200)),
        " ".join(f"{random.Random(n).random():.4f}" for n in range(80)),
    ],
    ids=["list", "data", "table", "times table", "numbers", "decimals"],
)
def test_numbers_that_do_not_count_are_no_loop(text: str) -> None:
    assert find_loop(text) is None
    assert looped_share(text) == 0


def test_digits_are_folded_only_on_request() -> None:
    counting = "".join(f"step{n}\n" for n in range(40, 160))
    assert find_loop(counting, LoopSettings(fold_digits=False)) is None
    loop = find_loop(counting)
    assert (loop.start, loop.end, loop.period) == (0, len(counting), 7)
    assert looped_share(counting) == 1
    assert find_loop("Well, then: " + counting).start == len("Well, then: ")
    assert find_loop("".join(f"step{n}\n" for n in range(40, 47)) * 1, LoopSettings(min_length=20)) is None, "too few"


@pytest.mark.parametrize(
    "unit",
    [
        WAIT,
        "😂",
        "我们需要重新考虑这个问题。",
        "생각해 보겠습니다. ",
        "- **Note:** see below.\n",
        "étape suivante… ",
        "👩‍👩‍👧 ",
    ],
)
def test_every_cut_has_the_same_verdict(unit: Any) -> None:
    """By bytes, as byte-level tokenizers cut, so that characters are cut too."""
    whole = ("Let us see: " + unit * 200).encode()
    for size in range(900, 900 + 2 * len(unit.encode())):
        text = whole[:size].decode(errors="replace")
        loop = find_loop(text)
        assert loop is not None, text[-20:]
        assert loop.start in (11, 12), "with the space before it, where the unit ends in one"


def test_a_counting_loop_has_the_same_verdict_at_every_cut() -> None:
    whole = "".join(f"Then came day number {n}, and nothing had changed at all. " for n in range(80, 130))
    for size in range(1500, 1700):
        assert find_loop(whole[:size]).start == 0
        assert find_repetition(whole[:size]).kind == "loop"


def test_an_end_that_is_known_decides() -> None:
    report = repetition_rate([WAIT * 9] * 4 + [FINE], ended=[True, False, None, None, True])
    assert (report.loops.hits, report.loops.total, report.ended_looped, report.unknown_ends) == (3, 5, 1, 2)
    assert report.looped_share == pytest.approx(3 * looped_share(WAIT * 9) / 5)
    assert find_loop(WAIT * 9, ended=True) is None
    assert find_near_loop(WAIT * 9, ended=True) is None
    assert find_repetition(WAIT * 9, ended=True).ended_loop == find_loop(WAIT * 9)


def test_the_report_says_what_is_not_in_the_rate() -> None:
    report = repetition_rate([NEAR, WAIT * 20 + FINE, FINE, WAIT * 20], ended=[False] * 3 + [True])
    assert (report.loops.hits, report.near_looped, report.left, report.ended_looped) == (0, 1, 1, 1)
    assert (
        "not in the rate: 1 end in a near-loop, 1 left a loop again, 1 end in a loop that the model" in report.table()
    )
    assert {"near_looped", "left", "ended_looped", "unknown_ends", "fold_digits"} <= report.to_dict().keys()


def words(rng: Any, count: Any) -> Any:
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(count)]


def test_near_loops_with_words_that_vary_and_with_words_put_in() -> None:
    rng, found = random.Random(0), 0
    for _ in range(100):
        sentence = words(rng, rng.randint(10, 25))
        told = words(rng, 40)
        for _ in range(14):
            told += sentence
            told[rng.randint(-len(sentence), -1)] = rng.choice(["perhaps", "surely", "never"])
            if rng.random() < 0.2:
                told.insert(rng.randint(-len(sentence), -1), "very")
        near = find_near_loop(" ".join(told))
        if near is not None:  # else a word varies too near to the end
            found += 1
            assert abs(near.period - len(sentence)) <= 1
            assert near.agreement > 0.8
        assert find_near_loop(" ".join(words(rng, 400))) is None
        assert find_near_loop(" ".join([*told, *words(rng, 12)])) is None, "it was left again"
    assert found >= 90


def test_near_loops_in_token_ids() -> None:
    rng = random.Random(0)
    ids = [rng.randint(0, 9999) for _ in range(50)]
    for _ in range(30):
        ids += [1, 2, 3, 4, 5, 6, rng.randint(100, 200), 8]
    near = find_near_loop(ids)
    assert near.period == 8
    assert near.end == len(ids)
    assert find_loop(ids) is None


def test_near_loops_hold_few_periods_of_like_length() -> None:
    lists = "".join(
        f"- {' '.join(words(random.Random(n), 2))}: see the page about it for more of it. " for n in range(4)
    )
    assert find_near_loop(lists) is None
    assert find_near_loop("") is find_near_loop("a b") is find_near_loop([]) is None


def test_short_loops_of_heavy_letters_are_those_of_a_search_through_every_period() -> None:
    rng = random.Random(3)
    found = 0
    for _ in range(1500):
        text = random_text(rng, rng.randint(0, 90), ["我你", "我a", "あ我, ", "가a"][rng.randrange(4)])
        settings = LoopSettings(min_length=rng.choice([24, 36, 60]), fold_digits=False)
        shortest = -(-settings.min_length // 3)
        expected = [
            loop
            for loop in every_loop(text, settings.min_repeats, shortest)
            if weight(text[loop.start : loop.end]) >= settings.min_length
        ]
        assert find_loops(text, settings) == expected, (text, settings)
        at_end = [loop for loop in expected if loop.end == len(text)]
        if at_end:
            assert find_loop(text, settings) == max(at_end, key=lambda loop: loop.length)
        found += sum(loop.length < settings.min_length for loop in expected)
    assert found > 200


def test_loops_that_count_are_found_wherever_they_stand() -> None:
    rng = random.Random(4)
    for _ in range(400):
        words_of_it = ["then", *words(rng, rng.randint(0, 5))]
        places = rng.sample(range(len(words_of_it) + 1), rng.randint(1, min(3, len(words_of_it) + 1)))
        firsts = [(rng.choice([1, 7, 95, 990, 1995]), rng.choice([1, 1, 2, -1, 10])) for _ in places]
        if not any(step for _, step in firsts):
            continue
        told = ""
        for turn in range(rng.randint(14, 30)):
            line = list(words_of_it)
            for place, (first, step) in sorted(zip(places, firsts, strict=True), reverse=True):
                line.insert(place, str(max(0, first + step * turn)))
            told += " ".join(line) + "\n"
        if len(told) < 140 or any(step < 0 for _, step in firsts):
            continue
        before = " ".join(words(rng, 30)) + ".\n"
        cut = rng.randint(0, 5)
        text = before + told[: len(told) - cut]
        loop = find_loop(text)
        assert loop is not None, text
        assert loop.start <= len(before) + 8
        assert loop.end == len(text)
        after = text + "\n" + " ".join(words(rng, 30))
        assert find_repetition(after).kind in ("left", "near-loop"), after
        assert looped_share(after) > 0.9 * (loop.end - loop.start) / len(after)
