"""Identify the language of an answer by the script of its prose. Code, LaTeX, URLs and markup are ignored.

Languages that share a script cannot be distinguished. If two candidates are possible, no language is returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from ..languages import get_language
from .character_classes import NO_LETTERS, SCRIPT_OF_BYTE, classes_of
from .fences import code_in_fences
from .offsets import without
from .prose import blank
from .thinking import split_thinking

OTHER_WINS, LATIN_WINS, LATIN_WINS_OVER_LITTLE = 0.45, 0.85, 0.75
"""The share of the words that a script must have for the answer to count as written in it. Latin needs a larger share,
because English terms, names and unfenced code are common in answers in other scripts. The last value applies to answers
with less than one word in other scripts. If no script reaches its share, the language is unknown."""
LEAD_OF_OTHER = 2 / 3
"""The share of the non-Latin words that a script must have."""
LOOSE = 0.25
"""Weight of a Latin word in a sentence without running Latin text, such as a term, a name or a table cell."""
QUOTED = 0.5
"""Weight of a word in another script inside a Latin sentence, such as a quotation or a name."""
JAPANESE_KANA = 0.1
"""Share of kana among the kana and Han of a Japanese sentence."""
CHINESE_HAN = 8
"""Han characters without kana that make a sentence Chinese. Shorter ones may be Japanese headings."""
MUCH_HAN = 12
"""Han characters of an answer without any kana that is Chinese, however short its sentences are."""
LITTLE_WORDS, LITTLE_TEXT = 1.0, 100
"""An answer with more characters than this, and with fewer words of Latin prose than this, is code with a heading."""

_LETTERS_PER_WORD = {"Hani": 1.7, "Jpan": 2.0, "Hang": 2.7, "Thai": 4.0, "Laoo": 4.0, "Khmr": 4.0, "Mymr": 4.0}
_LETTERS_PER_SPACED_WORD = 5.5


# These patterns run on character classes; see `character_classes`.
_WORD = rb"(?:U?l[lm]*(?:'[lU]+)*|U)"
_LATIN = re.compile(rb"[lU][lUm]*")
_CLEAN = re.compile(rb"(?<![lUd#'.])(?:" + _WORD + rb"|U+)(?![lUdm#'])")
_RUNNING = re.compile(
    rb"(?<![lUd#'.])(?:" + _WORD + rb"(?![lUdm#])(?:,* +,*(?:d+ +)?|'+ +)){3,}" + _WORD + rb"(?![lUd#])"
)
_LOWER = re.compile(rb"(?<![lUm'])l")
_OTHER = re.compile(rb"[\x80-\xff][\x80-\xffm]+")


@dataclass(frozen=True)
class AnswerLanguage:
    """The language and writing system that were identified for an answer.

    Attributes:
        language: code of one of the candidates; None if the language cannot be identified.
        writing: ISO 15924 code of the script of most of the prose. `Jpan` stands for Japanese, and `Hani?` for a few
            Han characters that may be Chinese or Japanese. None if there is no prose or no script has a majority.
        share: share of the prose's words that are in `writing`; 0 if `writing` is None.
        words: estimated number of words of prose. A single Latin word among other scripts counts as a quarter.
    """

    language: str | None
    writing: str | None
    share: float
    words: float


def answer_language(answer: str, candidates: Sequence[str]) -> AnswerLanguage:
    """Identify the language of an answer by the script of its prose.

    Args:
        answer: Markdown, HTML, LaTeX or plain text, perhaps with code.
        candidates: codes of the languages that the answer may be in.

    Returns:
        The one candidate whose writing system is that of most of the prose. The language is None if no candidate, or
        more than one, has this writing system.

    Raises:
        ValueError: an unknown code.

    Example:
        >>> answer_language("先安装 `pip install torch`，再运行。", ["en", "zh", "ja"]).language
        'zh'
    """
    writing, share, words = _of_both_parts(answer) if "think>" in answer else _of_prose(answer)
    return AnswerLanguage(language_of_writing(writing, tuple(candidates)), writing, share, words)


def _of_both_parts(answer: str) -> tuple[str | None, float, float]:
    """Writing of thinking and answer together. If the two differ, they have no writing in common."""
    parts = split_thinking(answer)
    thinking, said = _of_prose(parts.thinking.text), _of_prose(parts.answer.text)
    words = thinking[2] + said[2]
    if thinking[0] is None or said[0] is None:
        found = thinking if said[0] is None else said
        return found[0], found[1], words
    writings = {thinking[0], said[0]}
    if len(writings) == 2:
        writings -= {"Hani?"}  # the other part decides
    if len(writings) == 2:
        return None, 0.0, words
    return writings.pop(), (thinking[1] * thinking[2] + said[1] * said[2]) / words, words


def _of_prose(answer: str) -> tuple[str | None, float, float]:
    found = _of_lines(answer)
    if found[0] not in (None, "Latn") or answer.isascii() or not ("```" in answer or "~~~" in answer):
        return found
    # If the prose around the fences is in a non-Latin script, that script decides, whatever the fences contain.
    around = _of_lines(without(answer, code_in_fences(answer, whole=True)))
    return found if around[0] in (None, "Latn") else around


def _of_lines(answer: str) -> tuple[str | None, float, float]:
    prose = blank(answer)
    if "</" in answer and not prose.isascii():
        prose = _without_html_lines(answer, prose)
    prose = _CODE_LINE.sub("", prose)
    if not prose.isascii():
        prose = _BRACKETS.sub(_without_expression, prose)
    writing, share, words = main_writing(prose)
    if writing == "Latn" and words < LITTLE_WORDS and len(answer) > LITTLE_TEXT:
        return None, 0.0, words
    return writing, share, words


@lru_cache(maxsize=1024)
def language_of_writing(writing: str | None, candidates: tuple[str, ...]) -> str | None:
    """The one candidate with this writing system; None if no candidate, or more than one, has it.

    Raises:
        ValueError: an unknown code.
    """
    scripts_of = {get_language(code).code: set(get_language(code).scripts) for code in candidates}
    if writing == "Hani?":
        found = [code for code, scripts in scripts_of.items() if "Hani" in scripts]
    elif writing == "Jpan":
        found = [code for code, scripts in scripts_of.items() if "Hira" in scripts]
    else:
        found = [code for code, scripts in scripts_of.items() if writing in scripts and "Hira" not in scripts]
    return found[0] if len(found) == 1 else None


def main_writing(prose: str) -> tuple[str | None, float, float]:
    """The main writing system of a text (as in `AnswerLanguage`), its share of the words, and the number of words.

    Each sentence is assigned to Latin or to the other scripts, whichever has more words in running text.
    """
    classes = classes_of(prose)
    words: dict[str, float] = {}
    loose, latin = 0, 0.0
    for sentence in _sentences(classes):
        letters = sentence.translate(None, NO_LETTERS)
        found = _other_words(sentence, letters) if letters.translate(None, b"lUm") else {}
        others = sum(found.values())
        clean = len(_CLEAN.findall(sentence)) if b"l" in letters or b"U" in letters else 0
        running = _running(sentence) if clean > 3 else 0
        if running > others:
            latin += clean
        elif not running:
            loose += clean
        for writing, count in found.items():
            words[writing] = words.get(writing, 0.0) + (QUOTED * count if running > others else count)
    if loose and not latin and not words and 2 * loose < len(_LATIN.findall(classes)):
        loose = 0  # identifiers and capitalised words are not running text
    return _leading(words, latin + LOOSE * loose)


def _leading(words: dict[str, float], latin: float) -> tuple[str | None, float, float]:
    """The writing system with the most words, its share, and the number of words."""
    unsure = words.pop("Hani?", 0.0)
    if unsure:
        same = max(("Jpan", "Hani"), key=lambda writing: words.get(writing, 0.0))
        if same not in words:
            same = "Hani?" if unsure < MUCH_HAN / _LETTERS_PER_WORD["Hani"] else "Hani"
        words[same] = words.get(same, 0.0) + unsure
    others = sum(words.values())
    total = others + latin
    best = max(words, key=words.__getitem__, default=None)
    if best is not None and words[best] >= max(OTHER_WINS * total, LEAD_OF_OTHER * others):
        return best, words[best] / total, total
    if latin and latin >= (LATIN_WINS_OVER_LITTLE if others < 1 else LATIN_WINS) * total:
        return "Latn", latin / total, total
    return None, 0.0, total


def _other_words(sentence: bytes, letters: bytes) -> dict[str, float]:
    """Estimated number of words of a sentence in each writing system other than Latin."""
    found: dict[str, float] = {}
    chinese, japanese, copula = letters.count(b"C"), letters.count(b"J"), letters.count(b"S")
    han, kana = letters.count(b"H") + chinese + japanese + copula, letters.count(b"K")
    if han or kana:
        if kana >= JAPANESE_KANA * (han + kana):
            writing = "Jpan" if kana > 2 * chinese else "Hani"
        elif bool(chinese + copula) != bool(japanese):
            writing = "Jpan" if japanese else "Hani"
        elif han >= CHINESE_HAN or (han >= 3 and b"c" in sentence) or (han >= 4 and sentence.endswith(b"E")):
            writing = "Hani"
        else:
            writing = "Hani?"
        found[writing] = (han + kana) / _LETTERS_PER_WORD["Jpan" if kana else "Hani"]
    hangul = letters.count(b"G")
    if hangul:
        own = hangul + han if hangul >= han else hangul  # Korean text often explains words in Han characters
        found = {"Hang": own / _LETTERS_PER_WORD["Hang"]} | (found if hangul < han or kana else {})
    if not letters.isascii():
        for run in _OTHER.findall(sentence):
            script = SCRIPT_OF_BYTE[run[0]]
            count = len(run) / _LETTERS_PER_WORD.get(script, _LETTERS_PER_SPACED_WORD)
            found[script] = found.get(script, 0.0) + count
    return found


def _running(sentence: bytes) -> int:
    """Count Latin words in running text: at least four in a row, two or more of them not capitalised."""
    runs = _RUNNING.findall(sentence)
    return sum(len(_LATIN.findall(run)) for run in runs if len(_LOWER.findall(run)) >= 2)


def _without_expression(match: regex.Match[str]) -> str:
    return "" if _OPERATOR.search(match[0]) else match[0]


def _without_html_lines(answer: str, prose: str) -> str:
    """Remove ASCII-only lines of HTML, which are page source. If the answer has no other prose, they are kept."""
    kept, last = [], 0
    for line in _HTML_LINE.finditer(answer):
        kept.append(prose[last : line.start()])
        last = line.end()
    return "".join([*kept, prose[last:]])


# Lines of plain ASCII that are code outside a fence: a command, SQL, an import, a call, a comment, JSON, a log entry,
# or a line that ends in ; or {.
_CODE_LINE = regex.compile(
    r"(?m)^[ \t]*+(?:(?!# )[\w.@~:/-]*+[$#] (?=[a-z./~])[\x20-\x7e]*+"
    r"|(?:>>>|\.\.\.) [\x20-\x7e]*+"
    r"|(?:sudo|pip3?|npm|npx|yarn|pnpm|git|docker|kubectl|curl|wget|apt(?:-get)?+|brew|conda|python3?|cd|mkdir|export)"
    r" [\x20-\x7e]*+"
    r"|import [\w.]++(?: as \w++)?+(?:, [\w.]++)*+"
    r"|from [\w.]++ import [\w.,* ()]++"
    r"|(?:async )?(?:def|class) \w++[^\n:]*+:"
    r"|(?:const|let|var) \w++ =[\x20-\x7e]*+"
    r"|(?:for|while|if|elif|else|try|except|with)\b[\x20-\x7e]*+(?<=:)"
    r"|[\w.]++\([\x20-\x7e]*+(?<=\))"
    r"|(?://|/\*|\*/|\"\"\"|(?<=[ \t])#)[\x20-\x7e]*+"
    r"|[\[{][\[{ ]*+\"[\x20-\x7e]*+(?<=[\]},])"
    r"|\"[\w -]++\" ?:[\x20-\x7e]*+"
    r"|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\x20-\x7e]*+"
    r"|(?:DEBUG|INFO|WARN(?:ING)?+|ERROR|FATAL|CRITICAL|\w*(?:Error|Exception|Warning))\b:?+ [\x20-\x7e]*+"
    r"|(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|FROM|WHERE|(?:LEFT |INNER )?JOIN|GROUP BY|ORDER BY)"
    r"\b[\x20-\x7e]*+|[\x20-\x7e\t]*+(?<=[;{}]))[ \t\r]*+$"
)


_PLAIN = r"[\x20-'*-Z\\^-~]*+"
# Text in brackets is an expression if it contains an operator: [x for x in range(9) if x > 0].
_BRACKETS = regex.compile(rf"[\[(]{_PLAIN}(?:[\[(]{_PLAIN}[\])]{_PLAIN})*+[\])]")
_OPERATOR = re.compile(r"[=<>]=|[\w)] ?[=<>%*+] ?[\w(]|\bin range\b")
_HTML_LINE = regex.compile(r"(?m)^[ \t]*+(?=<[A-Za-z!/])[\x20-\x7e\t]*+(?<=>)[ \t\r]*+$")


def _sentences(classes: bytes) -> list[bytes]:
    """Split at sentence ends and line breaks. Parts without a letter are left out."""
    ends = classes.replace(b". ", b"\n").replace(b".\n", b"\n").replace(b"E", b"E\n")
    return [sentence for sentence in ends.split(b"\n") if sentence and not sentence.isspace()]
