"""Find out which fenced blocks of Markdown contain code and which contain prose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

_MARK = regex.compile(r"`{3,}+|~{3,}+")
# A fence has a line of its own, which may be in a list or a quotation. Models also open a fence after text such as
# "Run this:" and close one at the end of the last line of code.
_LEAD = regex.compile(r"[ \t>]*+(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?")
_LABEL = regex.compile(r"[\w+#-]*+[ \t]*+")
_LONGEST = 200  # maximum number of characters before or after a fence on its line
_MARKDOWN = frozenset({"markdown", "md", "mdx", "mkd"})
_TEXT = frozenset({"text", "txt", "plaintext", "plain", "none", "quote"})
_JSON = frozenset({"json", "json5", "jsonc", "jsonl", "ndjson"})
# Matches what occurs in lines of code but not in lines of prose.
_CODE_SIGN = regex.compile(
    r"[={}|\\$\[\]]|;$|[\w.]\(|\w_\w|\w::\w|->|^\s*+(?:#|//|/\*|>>>|<|(?:[-+]\s)?--?\w|(?:@|\.{1,2}/)\w)"
    r"|^\s*+(?:import|from|def|class|return|pip|npm|npx|yarn|git|cd|sudo|export|curl|docker|python3?|const|let|var|function)\s"
    r"|[├└│─]"
)
_PLAIN_LINE = regex.compile(r"[\p{L}“\"'(（*][^={}<>|\\$#\[\]`&]*+")
_ENDS_SENTENCE = regex.compile(r"[.。!！?？:：…][\"”’')）*]*+\Z|[，。、]")
_BEGINS_SENTENCE = regex.compile(r"\p{Lu}\p{Ll}*+[\s,]")
_UNSPACED = r"[\p{Hani}\p{Hira}\p{Kana}\p{Thai}\p{Laoo}\p{Khmr}\p{Mymr}\p{Tibt}]"
_WORD = regex.compile(rf"{_UNSPACED}{{2}}|[\p{{L}}--{_UNSPACED}][[\p{{L}}\p{{M}}'’-]--{_UNSPACED}]*+", regex.V1)
_CALL = regex.compile(r"[\w.]\(|;$|\w_\w")
_ITEM = regex.compile(r'"(?P<string>(?:[^"\\\n]|\\.)*+)"(?P<colon>[ \t]*+:)?')
_ESCAPE = regex.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
_JSON_START = regex.compile(r'\s*+[\[{]\s*+(?:[\[{]\s*+)*+"')
_JSON_PROSE = regex.compile(r"^(?!.*(?:--|[=/@{}<>|\\])).*[A-Za-z]+[ ,]+[A-Za-z]+[ ,]+[A-Za-z]+")
_MIN_WORDS, _MIN_WORDS_UNENDED = 3, 5  # minimum words of a sentence, with and without an end mark


@dataclass(frozen=True)
class _Fence:
    """An open fence. Its line begins at `start` and its content at `body`."""

    start: int
    body: int
    mark: str
    label: str

    @property
    def holds_text(self) -> bool:
        return not self.label or self.label in _MARKDOWN or self.label in _TEXT

    def closed_by(self, mark: str, info: str) -> bool:
        return not info and mark[0] == self.mark[0] and len(mark) >= len(self.mark)

    def may_hold(self, mark: str, info: str) -> bool:
        """Whether this line opens a nested fence. In Markdown any fence does; in code only one with a label."""
        if self.label in _MARKDOWN:
            return True
        return bool(info) and mark[0] == self.mark[0] and len(mark) <= len(self.mark)


def code_in_fences(text: str, *, whole: bool = False) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of code in the fenced blocks of `text`, unordered. Pieces may overlap.

    A fence labelled as Markdown or text is not code, and neither are the strings in a fence labelled as JSON. A fence
    without a label is code if most of its lines look like code. A fence that is never closed is code up to its first
    sentence. With `whole`, everything in a closed fence is code unless its label is Markdown.
    """
    opened: list[_Fence] = []
    for mark, info, alone, start, end in _lines(text):
        if opened and opened[-1].closed_by(mark, info):
            yield from _code_in(text, opened.pop(), start, end, whole)
        elif not alone and not info:
            continue  # three backticks directly after a word do not open a fence
        elif not opened or opened[-1].may_hold(mark, info):
            opened.append(_Fence(start, end, mark, _label(info)))
    ends = [*(fence.start for fence in opened), len(text)][1:]
    for fence, end in zip(opened, ends, strict=True):
        yield from _code_in_unclosed(text, fence, end, whole)


def _lines(text: str) -> Iterator[tuple[str, str, bool, int, int]]:
    """For each fence: its mark, the rest of its line, whether it begins the line, and its start and end."""
    for match in _MARK.finditer(text):
        start, end = match.start(), text.find("\n", match.end(), match.end() + _LONGEST)
        if end < 0:
            end = len(text)
        info = text[match.end() : min(end, match.end() + _LONGEST)]
        begin = text.rfind("\n", max(0, start - _LONGEST), start) + 1
        lead = text[max(begin, start - _LONGEST) : start]
        alone = (begin > 0 or start <= _LONGEST) and _LEAD.fullmatch(lead) is not None
        backticks = match[0][0] == "`"
        if end - match.end() >= _LONGEST or (backticks and "`" in info):
            continue
        if alone or (backticks and _LABEL.fullmatch(info) and (lead[-1] in " \t:：" or not info.strip())):
            yield match[0], info.strip(), alone, start, end


def _label(info: str) -> str:
    return str(regex.split(r"[\s,{:]", info.lower().lstrip("{."), maxsplit=1)[0]).rstrip("}")


def _code_in(text: str, fence: _Fence, body_end: int, end: int, whole: bool) -> Iterator[tuple[int, int]]:
    """The code in a closed fence. The two lines with backticks count as code too."""
    body = text[fence.body : body_end]
    if whole and fence.label not in _MARKDOWN:
        yield fence.start, end
    elif fence.label in _JSON or (fence.holds_text and _JSON_START.match(body)):
        yield from _outside_strings(text, fence.start, fence.body, body_end, end)
    elif fence.holds_text and not (not fence.label and _reads_as_code(body)):
        yield fence.start, fence.body
        yield body_end, end
    else:
        yield fence.start, end


def _code_in_unclosed(text: str, fence: _Fence, end: int, whole: bool) -> Iterator[tuple[int, int]]:
    if fence.label in _MARKDOWN or (not whole and (fence.holds_text or fence.label in _JSON)):
        yield from _code_in(text, fence, end, end, whole)
        return
    place = fence.body
    for line in text[fence.body : end].split("\n"):
        if _is_sentence(line):
            break
        place += len(line) + 1
    yield fence.start, min(place, end)


def _reads_as_code(body: str) -> bool:
    lines = [line for line in body.split("\n") if line.strip()]
    return 2 * sum(_CODE_SIGN.search(line) is not None for line in lines) >= max(1, len(lines))


def _is_sentence(line: str) -> bool:
    line = line.rstrip()
    if _PLAIN_LINE.fullmatch(line) is None or _CALL.search(line):
        return False
    words = len(_WORD.findall(line))
    if _ENDS_SENTENCE.search(line):
        return words >= _MIN_WORDS
    return words >= _MIN_WORDS_UNENDED and _BEGINS_SENTENCE.match(line) is not None  # the sentence may be cut off


def _outside_strings(text: str, start: int, body: int, body_end: int, end: int) -> Iterator[tuple[int, int]]:
    """All of a JSON block except its strings. Escapes, and keys that are identifiers, are code too."""
    place = start
    for item in _ITEM.finditer(text, body, body_end):
        if item["string"].isascii() and (item["colon"] or not _JSON_PROSE.search(item["string"])):
            continue
        yield place, item.start("string")
        for escape in _ESCAPE.finditer(text, *item.span("string")):
            yield escape.span()
        place = item.end("string")
    yield place, end
