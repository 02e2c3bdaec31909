"""How fast switches and loops are found, against plain loops, in how much memory, and how that grows with length.

    python benchmarks/detectors.py [--quick]

The published evaluation looks up the script of every character; the leanest loop that gives the same answer compares
each with one range. For loops at the end of a response the plain search tries every period. The ways must agree on
made-up responses, of which one in a hundred holds a switch, or every second ends in a loop.
"""

from __future__ import annotations

import argparse
import random
import tracemalloc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import _rows
from _timing import MEGABYTE, Timing, Way, growing, interleaved, table

from sae_posttrain.languages import script_counts
from sae_posttrain.metrics import Loop, code_switching_rate, find_loop, looped_share, repetition_rate, unexpected_spans

LENGTH, TOKENS = 8_000, 2_000  # of a response: four characters a token
COMPARED, LOOPING, REPORTED = 100, 20, 2_000  # responses
LENGTHS = (2_000, 8_000, 32_000, 128_000, 512_000)
# The first level of GB 2312: all of it is Chinese, where a stretch of Unicode holds characters of Japan alone.
COMMON_HAN = b"".join(bytes((row, cell)) for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFF)).decode("gb2312")
ALPHABETS = {
    "en": ("abcdefghijklmnopqrstuvwxyzé", "Hani"),
    "ru": ("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "Hani"),
    "ko": ("".join(map(chr, range(0xAC00, 0xAC00 + 1500))), "Hani"),
    "zh": (COMMON_HAN[:2500], "Cyrl"),
}
WORDS = {
    language: ["".join(random.Random(number).choices(letters, k=1 + number % 9)) for number in range(3000)]
    for language, (letters, _) in ALPHABETS.items()
}
STRANGE = {"Hani": "答案", "Cyrl": "ответ"}
ONE_RANGE = {"Hani": ("\u4e00", "\u9fff"), "Cyrl": ("\u0400", "\u04ff")}


def made_up(
    rng: random.Random, language: str, length: int = LENGTH, *, strange: bool = False, looping: bool = False
) -> str:
    """Words and punctuation, not all of it ASCII; a word in another script in its last tenth, or a loop, if asked."""
    text = ""
    while len(text) < length:
        text += " ".join(rng.choices(WORDS[language], k=200)) + rng.choice([". ", " — ", "… ", " “1,234” ", "\n"])
    if strange:
        place = rng.randint(length * 9 // 10, length - 10)
        text = f"{text[:place]} {STRANGE[ALPHABETS[language][1]]} {text[place:]}"
    if looping:
        half, period = length // 2, rng.randint(1, 200)
        text = text[:half] + text[half - period : half] * (half // period + 1)
    return text[:length]


def script_table() -> tuple[list[int], list[str]]:
    """Where each stretch of one script starts, and which it is."""
    starts, scripts = [], []
    scripted = ((point, next(iter(script_counts(chr(point))), "")) for point in range(0x20000))
    for script, stretch in groupby(scripted, key=lambda pair: pair[1]):
        starts.append(next(stretch)[0])
        scripts.append(script)
    return starts, scripts


STARTS, SCRIPTS = script_table()


def script_of_every_character(text: str, script: str) -> bool:
    return script in Counter(SCRIPTS[bisect_right(STARTS, ord(char)) - 1] for char in text)


def one_range(text: str, script: str) -> bool:
    low, high = ONE_RANGE[script]
    for char in text:  # noqa: SIM110  as loops are written
        if low <= char <= high:
            return True
    return False


def plain_search(text: str, min_repeats: int = 4, min_length: int = 100) -> Loop | None:
    """Every period in turn; the first of those whose loop is longest."""
    longest = None
    for period in range(1, len(text) // min_repeats + 1):
        tail = text[-max(min_length, min_repeats * period) :]
        if len(tail) >= min_length and tail[period:] == tail[:-period]:
            start = len(text) - len(tail)
            while start and text[start - 1] == text[start - 1 + period]:
                start -= 1
            if longest is None or start < longest.start:
                longest = Loop(start, len(text), period)
    return longest


def compare_switches(language: str, rounds: int) -> list[Timing]:
    rng, script = random.Random(0), ALPHABETS[language][1]
    texts = [made_up(rng, language, strange=number % 100 == 0) for number in range(COMPARED)]
    finders: dict[str, Callable[[str], bool]] = {
        "unexpected_spans": lambda text: any(span.script == script for span in unexpected_spans(text, language)),
        "loop, one range": partial(one_range, script=script),
        "loop, script of every character": partial(script_of_every_character, script=script),
    }
    return compare("find switches", finders, texts, f"{language}, {COMPARED} responses of {LENGTH} characters", rounds)


def compare_loops(rounds: int) -> list[Timing]:
    rng = random.Random(0)
    texts = [made_up(rng, "en", looping=number % 2 == 0) for number in range(LOOPING)]
    finders: dict[str, Callable[[str], Any]] = {"find_loop": find_loop, "plain search": plain_search}
    return compare("find loops", finders, texts, f"{LOOPING} responses of {LENGTH} characters", rounds)


def compare(
    name: str, finders: dict[str, Callable[[str], Any]], texts: Sequence[str], size: str, rounds: int
) -> list[Timing]:
    """Times of ways that must give the same answers, some of them that something is there."""
    answers = {finder: [find(text) for text in texts] for finder, find in finders.items()}
    first = next(iter(answers.values()))
    if any(found != first for found in answers.values()) or not any(first):
        raise RuntimeError(f"{name}: {', '.join(finders)} disagree on {size}, or find nothing")
    ways = {finder: partial(each, find, texts) for finder, find in finders.items()}
    return interleaved(name, ways, rounds=rounds, size=size, dtype="", work=(megabytes(texts), "MB"))


def each(find: Callable[[str], Any], texts: Sequence[str]) -> None:
    for text in texts:
        find(text)


def grown(lengths: Sequence[int], rounds: int) -> list[Timing]:
    """The same amount of text in longer and longer responses: what takes linear time takes equally long for each."""
    finders: dict[str, Callable[[str], Any]] = {
        "unexpected_spans": lambda text: unexpected_spans(text, "en"),
        "find_loop": find_loop,
        "looped_share": looped_share,
        "repetition_rate": lambda text: repetition_rate([text]),
    }
    rng, rows = random.Random(0), []
    texts = {length: [made_up(rng, "en", length) for _ in range(lengths[-1] // length)] for length in lengths}
    for finder, find in finders.items():
        ways = {
            f"{len(responses)} of {length} characters": (partial(each, find, responses), megabytes(responses))
            for length, responses in texts.items()
        }
        rows += growing("growth", finder, ways, unit="MB", rounds=rounds, dtype="")
    return rows


def reports(count: int, rounds: int) -> list[Timing]:
    """Reports on many responses, all languages in turn, one in a hundred with a switch and one with a loop."""
    rng = random.Random(0)
    languages = [list(ALPHABETS)[number % 4] for number in range(count)]
    texts = [
        made_up(rng, code, strange=number % 100 == 0, looping=number % 100 == 1)
        for number, code in enumerate(languages)
    ]
    ids = [rng.choices(range(50_000), k=TOKENS) for _ in range(count)]
    clusters = [number // 8 for number in range(count)]
    jobs: list[tuple[str, str, Way]] = [
        ("code_switching_rate", "characters", lambda: code_switching_rate(texts, languages, clusters=clusters)),
        ("repetition_rate", "characters", lambda: repetition_rate(texts, clusters=clusters)),
        ("repetition_rate", "ids", lambda: repetition_rate(ids, clusters=clusters)),
    ]
    rows = []
    for report, unit, run in jobs:
        size = f"{count} responses of {TOKENS if unit == 'ids' else LENGTH} {unit}"
        timed = interleaved("report", {report: run}, rounds=rounds, size=size, dtype="", work=(count, "responses"))
        rows += [replace(one, peak_memory=peak(run)) for one in timed]
    return rows


def megabytes(texts: Sequence[str]) -> float:
    """Of UTF-8."""
    return sum(len(text.encode()) for text in texts) / MEGABYTE


def peak(run: Way) -> float:
    """Megabytes beside what is there before."""
    tracemalloc.start()
    run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(most / MEGABYTE, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one language, shorter and fewer responses; writes no file"
    )
    args = parser.parse_args()
    rows = []
    for language in ("en",) if args.quick else ALPHABETS:
        rows += compare_switches(language, 2 if args.quick else 7)
    rows += compare_loops(2 if args.quick else 7)
    rows += grown(LENGTHS[:3] if args.quick else LENGTHS, 2 if args.quick else 5)
    rows += reports(100 if args.quick else REPORTED, 1 if args.quick else 3)
    print(table(rows))
    if not args.quick:
        print(_rows.write("detectors", rows))


if __name__ == "__main__":
    main()
