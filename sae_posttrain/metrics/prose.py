"""Which parts of a text are prose, and which are code, LaTeX, URLs or markup.

    blank(text)                 keeps only the prose; everything else becomes spaces
    blank(text, urls=False)     keeps the prose and the URLs

Removed parts become spaces and line breaks are kept, so offsets do not change. Every step takes linear time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import regex

from .fences import code_in_fences
from .latex import blank_latex
from .offsets import code_points, spaces, without

_INLINE = regex.compile(r"(?<!`)(?P<ticks>`++)[^\n]+?(?<!`)(?P=ticks)(?!`)")
_HTML_CODE = regex.compile(r"(?i)<(?P<close>/?)(?P<name>code|pre|kbd|samp|var|tt|script|style)(?:\s[^<>]*+)?>")
_COMMENT = regex.compile(r"(?P<open><!--|\{/?\*|\{%|\{#)|-->|\*/?\}|%\}|#\}")
# The host is plain ASCII, so text directly after a bare domain is still checked. The length of a scheme is bounded: a
# scheme may begin at each dot of a long run, and an unbounded one would be searched to the end of the run from each.
_URL = regex.compile(
    r"(?i)\b(?:[a-z][a-z0-9+.-]{0,20}://|www\.)(?P<host>[a-z0-9.:@_~-]++)"
    r"(?P<path>[/?#][^\s<>\"`，。、；：！？（）「」『』《》【】]*+)?"
)
_EMAIL = regex.compile(r"(?<![a-z0-9._%+-])[a-z0-9._%+-]{1,64}+@[a-z0-9-]++(?:\.[a-z0-9-]++)++", regex.IGNORECASE)
_ASCII = 128
_LETTERS = r"[[\p{L}\p{M}]--\p{Latn}]"
_UNSPACED = r"[\p{Hani}\p{Hira}\p{Kana}\p{Thai}\p{Laoo}\p{Khmr}\p{Mymr}\p{Tibt}]"
_FOREIGN = regex.compile(rf"{_LETTERS}+", regex.V1)
_RUNS_ON = regex.compile(rf"[，。、；：！？,;:]{_UNSPACED}", regex.V1)
_UNSPACED_WORD = regex.compile(_UNSPACED, regex.V1)
_LOCAL = regex.compile(r"(?i)(?:^|\.)(?:zh|ja|th|lo|km|my|bo|yue)(?:-\w+)?\.|\.(?:cn|tw|hk|mo|jp|th|la|kh|mm)(?:$|:)")
_ENDS_LATIN = regex.compile(r"[A-Za-z0-9]++(?=\Z)")
_PATH_WORD, _LOCAL_PATH_WORD = 6, 40  # longest run of letters of an unspaced script that is still part of a URL
_JOINED = 2  # maximum number of Latin letters directly before such a word, as in C语言
# The target of a link must look like one: [x](/reference), [x](#はじめに). [hello](你好) is a gloss and stays.
_TARGET = regex.compile(
    r"\]\(\s*+(?P<target><[^<>\n]*+>|(?=[^\s()]*[/#.:]|[!-'*-~]++[)\s])[^\s()]*+(?:\([^\s()]*+\)[^\s()]*+)*+)"
    r"(?:\s++(?:\"[^\"\n]*+\"|'[^'\n]*+'))?+\s*+\)"
    r"|(?m)^[ \t]{0,3}\[[^\[\]\n]++\]:[ \t]*+(?P<target>\S++)|\]\[(?P<target>[\w.#/-]++)\]"
)
_VALUE = r"(?:\"[^\"]*+\"|'[^']*+'|\{(?:[^{}]|\{[^{}]*+\})*+\}|[^\s\"'=<>`{}]++)"
_TAG = regex.compile(rf"</?+[A-Za-z][\w.:-]*+(?:\s++[A-Za-z_@:*#.][\w.:@-]*+(?:\s*+=\s*+{_VALUE})?+)*+\s*+/?>|</?>")
_KEY = regex.compile(r"(?m)^---$|^[\w-]++:(?=\s)")
_FRONT_MATTER = 4000  # maximum number of characters of front matter
_ENTITY = regex.compile(r"&(?:[A-Za-z]{2,10}|#\d{1,7}|#x[0-9A-Fa-f]{1,6});")
# Placeholders and expressions contain only Latin and Greek letters and no strings, so that JSON is not one.
_HELD = r"[[^{}\n\"]--[\p{L}--[\p{Latn}\p{Grek}]]]"
_PLACEHOLDER = regex.compile(rf"[$%]?\{{(?:{_HELD}|\{{{_HELD}*+\}})++\}}", regex.V1)


def blank(text: str, *, code: bool = True, urls: bool = True, markup: bool = True, terms: Iterable[str] = ()) -> str:
    """Replace everything that is not prose by spaces; offsets and line breaks stay the same.

    Args:
        text: an answer or a document, in Markdown, HTML, LaTeX or plain.
        code: leave out code in fences, in backticks and in HTML's `<code>`, `<pre>` and the like, and LaTeX. A fence
            labelled markdown, md, text or txt holds prose. A fence without a label holds prose unless most of its lines
            look like code. The strings of a fence labelled json are prose. A fence that is never closed is code up to
            its first sentence. In mathematics, `\\text{…}` and words in other scripts than Latin and Greek stay.
        urls: leave out URLs, e-mail addresses and the targets of Markdown links. If prose follows a URL without a
            space, the URL ends where the prose begins.
        markup: leave out HTML tags with their attributes, comments, entities and placeholders such as `{name}`.
        terms: leave out these words too. Case is ignored.

    Returns:
        A text as long as `text`.

    Example:
        >>> blank("Call `f(x)` (see https://example.org).")
        'Call        (see                    ).'
    """
    held = _marks(text)
    if code and held("`~<$\\{"):
        text = _without_code(text, held)
    if urls and held("[@:.") and held("/]@w"):
        if held("["):
            text = _TARGET.sub(_without_target, text)
        if (held(":") and "://" in text) or _names_host(text, held):
            text = _URL.sub(_without_url, text)
        if held("@"):
            text = _EMAIL.sub(spaces, text)
    if markup and held("<&{-"):
        text = _without_markup(text, held)
    wanted = tuple(terms)
    return _any_of(wanted).sub(spaces, text) if wanted else text


def _marks(text: str) -> Callable[[str], bool]:
    """A function that says whether the text contains any of the given ASCII characters. One scan serves all calls."""
    points = code_points(text)
    counts = np.bincount(points[points < _ASCII], minlength=_ASCII).tolist()
    return lambda marks: any(counts[ord(mark)] for mark in marks)


def _names_host(text: str, held: Callable[[str], bool]) -> bool:
    return held("w") and held(".") and any(www in text for www in ("www.", "Www.", "WWW."))


def _without_code(text: str, held: Callable[[str], bool]) -> str:
    if held("`~"):
        text = without(text, code_in_fences(text))
    if held("<"):
        text = without(text, _in_html(text))
    if held("`"):
        text = _INLINE.sub(spaces, text)
    return blank_latex(text) if held("$\\{") else text


def _without_markup(text: str, held: Callable[[str], bool]) -> str:
    if text.startswith("---\n"):
        end = text.find("\n---", 3, _FRONT_MATTER) + 1
        text = _KEY.sub(spaces, text[:end]) + text[end:]
    if held("{<"):
        text = without(text, _comments(text))
    if held("<"):
        text = _TAG.sub(spaces, text)
    if held("&"):
        text = _ENTITY.sub(spaces, text)
    return _PLACEHOLDER.sub(spaces, text) if held("{") else text


def _in_html(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each element such as `<code>…</code>`. A tag that is never closed removes no text."""
    opened: dict[str, int] = {}
    for match in _HTML_CODE.finditer(text):
        name = match["name"].lower()
        if not match["close"]:
            opened[name] = match.start()
        elif (start := opened.pop(name, None)) is not None:
            yield start, match.end()


def _comments(text: str) -> Iterator[tuple[int, int]]:
    start: int | None = None
    for match in _COMMENT.finditer(text):
        if match["open"] is not None:
            start = match.start() if start is None else start
        elif start is not None:
            yield start, match.end()
            start = None


def _without_target(match: regex.Match[str]) -> str:
    start, end = match.span("target")
    return f"{match[0][: start - match.start()]}{' ' * (end - start)}{match[0][end - match.start() :]}"


def _without_url(match: regex.Match[str]) -> str:
    """Blank a URL. If prose follows it directly, the prose is kept."""
    path = match["path"]
    if path is None or path.isascii():
        return spaces(match)
    kept = path
    local = _LOCAL.search(match["host"]) is not None or path.lower().startswith("/wiki/")
    for word in _FOREIGN.finditer(path):
        if not _belongs(path, word, _LOCAL_PATH_WORD if local else _PATH_WORD, match):
            kept = path[: word.start()]
            break
    whole = match[0]
    end = len(whole) - len(path) + len(kept)
    return f"{' ' * end}{whole[end:]}"


def _belongs(path: str, word: regex.Match[str], most: int, url: regex.Match[str]) -> bool:
    """Whether a word in letters of another script is part of a URL's path."""
    if not _UNSPACED_WORD.search(word[0]):
        return not path[word.start() - 1].isalnum()
    joined = _ENDS_LATIN.search(path[max(0, word.start() - 1 - _JOINED) : word.start()])
    if len(word[0]) > most or (joined is not None and len(joined[0]) > _JOINED):
        return False
    return not (word.end() == len(path) and _RUNS_ON.match(url.string, url.end()))


@lru_cache(maxsize=64)
def _any_of(terms: tuple[str, ...]) -> regex.Pattern[str]:
    longest_first = sorted(filter(None, terms), key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, longest_first)) or r"(?!)", regex.IGNORECASE)
