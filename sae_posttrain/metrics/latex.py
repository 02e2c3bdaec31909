"""Blank the LaTeX in a text. Formulas and commands are notation; the content of `\\text{…}` is prose."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from .offsets import as_spaces, spaces, without

# A double backslash is a line break, so the character after it does not open a formula.
_DELIMITER = regex.compile(
    r"\\\\|\\(?P<open>[(\[])|\\(?P<close>[)\]])|(?<!\\)(?P<both>\$\$)"
    r"|\\begin\{(?P<open>[a-zA-Z]+\*?)\}|\\end\{(?P<close>[a-zA-Z]+\*?)\}"
)
_CLOSED_BY = {"(": ")", "[": "]"}
# The rule of pandoc, so that prices are not formulas: no space inside the dollar signs, no letter or digit around them.
_DOLLARS = regex.compile(
    r"(?<![\\$A-Za-z0-9])\$(?![\s$])(?P<body>(?:[^$\n\\]|\\[^\n]|\n(?!\s*\n)){1,400}?)(?<![\s\\])\$(?![A-Za-z0-9$])"
)
_MATH_SIGN = regex.compile(r"[\\^_=<>+*/|{}]")
_WORD = regex.compile(r"\p{L}{4}")
_BRACES = r"\{(?:[^{}\n]|\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]*+\})*+\})*+\})*+\}"
_NOTATION = regex.compile(
    r"\\(?:boxed|fbox|[dt]?frac|sqrt|math[a-z]+|operatorname|over(?:line|set)|under(?:line|set|brace)|hat|bar|vec|tilde"
    r"|begin|end|label|(?:eq|page)?ref|cite[pt]?|usepackage|documentclass|includegraphics|[hv]space)\*?+"
    rf"(?:\[[^\[\]\n]*+\])?+[ \t]*+(?:{_BRACES})++"
)
_COMMAND = regex.compile(r"\\[A-Za-z]++\*?+(?:\{(?P<prose>[^{}]*+)\})?+")
_SCRIPT = regex.compile(rf"(?<=[\w)}}])[_^](?:{_BRACES})")
# Prose inside notation: the arguments of these commands, and words in scripts that formulas do not use.
_PROSE = regex.compile(
    r"\\(?:text(?:bf|it|md|normal|rm|sf|sl|tt|up)?|mbox|intertext)\s*+\{(?P<prose>[^{}]*+)\}"
    r"|(?P<prose>[[\p{L}\p{M}]--[\p{Latn}\p{Grek}\p{Zyyy}\p{Zinh}]]{2,}+)",
    regex.V1,
)


def blank_latex(text: str) -> str:
    """Replace formulas, the arguments of commands such as `\\frac`, and the names of commands by spaces."""
    if "$$" in text or "\\" in text:
        text = without(text, _environments(text), _notation)
    if "$" in text:
        text = _DOLLARS.sub(_without_formula, text)
    if "\\" in text:
        text = _NOTATION.sub(lambda match: _notation(match[0]), text)
        text = _COMMAND.sub(_without_command, text)
    if "_{" in text or "^{" in text:
        text = _SCRIPT.sub(lambda match: _notation(match[0]), text)
    return text


def _environments(text: str) -> Iterator[tuple[int, int]]:
    """Find environments. If one is opened twice, the later opening counts, so that an unclosed one removes no text."""
    opened: dict[str, int] = {}
    for match in _DELIMITER.finditer(text):
        key, closes, both = match["open"], match["close"], match["both"]
        if key is not None:
            opened[_CLOSED_BY.get(key, key)] = match.start()
        elif both is not None and (both not in opened or "\n\n" in text[opened[both] : match.start()]):
            opened[both] = match.start()
        elif (start := opened.pop(closes or both or "", None)) is not None and (
            closes not in (")", "]") or _is_formula(text[start + 2 : match.start()])
        ):
            yield start, match.end()


def _without_formula(match: regex.Match[str]) -> str:
    return _notation(match[0]) if _is_formula(match["body"]) else match[0]


def _without_command(match: regex.Match[str]) -> str:
    """Blank the name of a command. The argument of most commands is prose: \\textbf{…}, \\section{…}."""
    prose = match["prose"]
    return spaces(match) if prose is None else f"{' ' * (len(match[0]) - len(prose) - 1)}{prose} "


def _is_formula(body: str) -> bool:
    """Whether this is a formula, and not text between two prices or in escaped brackets."""
    return "\n\n" not in body and (_MATH_SIGN.search(body) is not None or not _WORD.search(body))


def _notation(text: str) -> str:
    """Replace notation by spaces and keep the prose in it."""
    parts, place = [], 0
    for match in _PROSE.finditer(text):
        parts += [as_spaces(text[place : match.start("prose")]), match["prose"]]
        place = match.end("prose")
    return "".join([*parts, as_spaces(text[place:])])
