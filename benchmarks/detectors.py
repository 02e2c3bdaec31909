"""How fast code-switching and repetition are found, against a loop over characters, and in how much memory.

    python benchmarks/detectors.py

The published evaluation looks up the script of every character; the leanest loop that gives the same answer compares
each with one range. All three look for one script in the same made-up responses, one in a hundred of which holds it,
and must agree. Times are of the processor.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import _rows
from _rows import Row

from sae_posttrain.languages import script_counts
from sae_posttrain.metrics import code_switching_rate, find_loop, repetition_rate, unexpected_spans

RESPONSES, LENGTH, TOKENS = 10_000, 8_000, 2_000  # four characters a token
COMPARED = 100  # responses of each language that the loops are tried on
ROUNDS = 3
ALPHABETS = {
    "en": ("abcdefghijklmnopqrstuvwxyzé", "Hani"),
    "ru": ("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "Hani"),
    "ko": ("".join(map(chr, range(0xAC00, 0xAC00 + 1500))), "Hani"),
    "zh": ("".join(map(chr, range(0x4E00, 0x4E00 + 2500))), "Cyrl"),
}
WORDS = {
    language: ["".join(random.Random(number).choices(letters, k=1 + number % 9)) for number in range(3000)]
    for language, (letters, _) in ALPHABETS.items()
}
STRANGE = {"Hani": "答案", "Cyrl": "ответ"}
ONE_RANGE = {"Hani": ("\u4e00", "\u9fff"), "Cyrl": ("\u0400", "\u04ff")}


def made_up(rng: random.Random, language: str, strange: bool) -> str:
    """Words and punctuation, not all of it ASCII; with a word in another script in its last tenth, if asked."""
    script, text = ALPHABETS[language][1], ""
    while len(text) < LENGTH:
        text += " ".join(rng.choices(WORDS[language], k=200)) + rng.choice([". ", " — ", "… ", " “1,234” ", "\n"])
    place = rng.randint(LENGTH * 9 // 10, LENGTH - 10)
    return (f"{text[:place]} {STRANGE[script]} {text[place:]}" if strange else text)[:LENGTH]


def script_table() -> tuple[list[int], list[str]]:
    """Where each stretch of one script starts, and which it is."""
    starts, scripts = [], []
    scripted = ((point, next(iter(script_counts(chr(point))), "")) for point in range(0x20000))
    for script, stretch in groupby(scripted, key=lambda pair: pair[1]):
        starts.append(next(stretch)[0])
        scripts.append(script)
    return starts, scripts


STARTS, SCRIPTS = script_table()


def script_of_every_character(text: str, language: str, script: str) -> bool:
    return script in Counter(SCRIPTS[bisect_right(STARTS, ord(char)) - 1] for char in text)


def one_range(text: str, language: str, script: str) -> bool:
    low, high = ONE_RANGE[script]
    for char in text:  # noqa: SIM110  as loops are written
        if low <= char <= high:
            return True
    return False


def ours(text: str, language: str, script: str) -> bool:
    return any(span.script == script for span in unexpected_spans(text, language))


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def compared(language: str, texts: Sequence[str]) -> list[Row]:
    script = ALPHABETS[language][1]
    ways: dict[str, Callable[[str, str, str], bool]] = {
        "unexpected_spans": ours,
        "loop, one range": one_range,
        "loop, script of every character": script_of_every_character,
    }
    ours(texts[0], language, script)  # the table of characters is made once
    answers = {name: [find(text, language, script) for text in texts] for name, find in ways.items()}
    if len({tuple(found) for found in answers.values()}) != 1 or not any(answers["loop, one range"]):
        raise RuntimeError(f"the ways to find {script} in {language} disagree, or there is none")
    taken = {
        name: min(seconds(lambda find=find: [find(text, language, script) for text in texts]) for _ in range(ROUNDS))  # type: ignore[misc]
        for name, find in ways.items()
    }
    characters = sum(map(len, texts))
    case = f"{language}, {len(texts)} responses of {LENGTH} characters"
    rows = [Row(case, name, round(1e9 * spent / characters, 2), "ns per character") for name, spent in taken.items()]
    fastest = taken["unexpected_spans"]
    rows += [
        Row(case, f"against {name}", round(spent / fastest, 1), "times faster")
        for name, spent in taken.items()
        if spent != fastest
    ]
    return rows


def whole(rng: random.Random) -> list[Row]:
    """Reports on ten thousand responses, all languages in turn, one in a hundred with a switch and one with a loop."""
    languages = [list(ALPHABETS)[number % 4] for number in range(RESPONSES)]
    texts = [made_up(rng, code, number % 100 == 0) for number, code in enumerate(languages)]
    texts = [text[:-600] + text[:60] * 10 if number % 100 == 1 else text for number, text in enumerate(texts)]
    ids = [rng.choices(range(50_000), k=TOKENS) for _ in range(RESPONSES)]
    clusters = [number // 8 for number in range(RESPONSES)]
    case = f"{RESPONSES} responses of {LENGTH} characters"
    reports: dict[str, tuple[str, Callable[[], Any]]] = {
        "code_switching_rate": (case, lambda: code_switching_rate(texts, languages, clusters=clusters)),
        "find_loop": (case, lambda: [find_loop(text) for text in texts]),
        "repetition_rate": (case, lambda: repetition_rate(texts, clusters=clusters)),
        "repetition_rate of ids": (f"{RESPONSES} responses of {TOKENS} ids", lambda: repetition_rate(ids)),
    }
    rows = [Row(case, "the texts themselves", round(sum(len(t) * _width(t) for t in texts) / 2**20), "MiB")]
    for name, (of, run) in reports.items():
        rows.append(Row(of, name, round(seconds(run), 1), "s"))
    beside = {
        "code_switching_rate": reports["code_switching_rate"][1],
        "repetition_rate of the first 200": lambda: repetition_rate(texts[:200]),
    }
    for name, run in beside.items():
        rows.append(Row(case, f"{name}, most memory beside them", round(_peak(run) / 2**20, 1), "MiB"))
    return rows


def _width(text: str) -> int:
    highest = max(text)
    return 1 if highest < "\u0100" else 2 if highest < "\U00010000" else 4


def _peak(run: Callable[[], Any]) -> int:
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    rng = random.Random(0)
    rows = []
    for language in ALPHABETS:
        rows += compared(language, [made_up(rng, language, number % 100 == 0) for number in range(COMPARED)])
    rows += whole(rng)
    for row in rows:
        print(f"{row.case:40}{row.measure:46}{row.value:10} {row.unit}")
    print(_rows.write("detectors", rows))


if __name__ == "__main__":
    main()
