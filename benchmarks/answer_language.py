"""Whose language are real documents with their code left in taken for, page by page and section by section?

    python benchmarks/answer_language.py --tokenizer FOLDER --source en --documents en=FOLDER zh=FOLDER zh=FOLDER …

A folder holds Markdown (.md, .mdx) in one language; a language may have several. Documents are cut into whole pages and
into sections of 100 to 1,000 tokens, and each is told as a segment of a training batch, by its tokens. The candidates
are ja, ko, ru, zh, and one language in Latin letters: the document's own, else en. The way before counted the scripts
of tokens, code included. It is measured on the same pieces.

Translations are rarely complete. A piece is left out as untranslated if half of its words outside code, or more, stand
in runs of three words that also occur in the documents in the source language. No detector takes part in that. Pieces
without ten letters outside code are left out too. The sums of both are in the results.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _rows
import torch
from _rows import Row
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sae_posttrain.languages import get_language, token_script
from sae_posttrain.training.sasft.identifier import ScriptIdentifier
from sae_posttrain.training.sasft.segments import segments_of
from sae_posttrain.vocabulary import token_bytes

OTHERS = ("ja", "ko", "ru", "zh")
SHORTEST, LONGEST = 100, 1_000  # tokens of a section
SHINGLE = 3
TIMED = 40  # sections of each language whose time is taken
FENCE = re.compile(r"\s*(`{3,}|~{3,})")
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Piece:
    """A part of a document: a page or a section."""

    kind: str
    path: Path
    text: str


class TokenCounts:
    """The rule before: the candidate whose scripts most labelled tokens are in, at least half, code included."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], scripts: list[str | None]
    ) -> None:
        self.tokenizer, self.scripts = tokenizer, scripts
        self.own = {code: set(get_language(code).scripts) for code in candidates}

    def tell(self, ids: Sequence[int]) -> str | None:
        counts = Counter(script for script in (self.scripts[index] for index in ids) if script is not None)
        scores = {}
        for code, own in self.own.items():
            share = sum(counts[script] for script in own) / max(1, counts.total())
            if share >= 0.5:
                scores[code] = share - 0.05 * (len(own) - 1)
        best = [code for code, score in scores.items() if score > max(scores.values()) - 1e-6]
        return best[0] if len(best) == 1 else None


def documents(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted([*folder.rglob("*.md"), *folder.rglob("*.mdx")]):
        text = path.read_text(encoding="utf-8")
        if text.strip():
            yield path, text


def pieces(path: Path, text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    yield Piece("pages", path, text)
    held: list[str] = []
    count = 0
    for block in blocks(text):
        held.append(block)
        count += len(tokenizer(block)["input_ids"])
        if count >= SHORTEST:
            section = "".join(held)
            if count > LONGEST:
                section = tokenizer.decode(tokenizer(section, add_special_tokens=False)["input_ids"][:LONGEST])
            yield Piece("sections", path, section)
            held, count = [], 0


def blocks(text: str) -> Iterator[str]:
    """From one heading outside code to the next."""
    held: list[str] = []
    for line, inside in lines(text):
        if held and not inside and re.match(r"#{1,6} ", line):
            yield "".join(held)
            held = []
        held.append(f"{line}\n")
    yield "".join(held)


def lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is in a fence or opens or closes one."""
    mark = None
    for line in text.split("\n"):
        match = FENCE.match(line)
        inside = mark is not None or match is not None
        if match is not None:
            mark = match[1] if mark is None else None if match[1].startswith(mark) else mark
        yield line, inside


def shingles(text: str) -> Iterator[tuple[list[str], list[tuple[str, ...]]]]:
    """Words of each line outside code, markup and tables, and all runs of three of them."""
    for line, inside in lines(text):
        if not inside and line.lstrip()[:1] not in ("<", "{", "|", "/", ":", "!"):
            words = [word.lower() for word in WORD.findall(line)]
            yield words, [tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)]


def untranslated(text: str, known: set[tuple[str, ...]]) -> float | None:
    """Share of the letters outside code that stand in known runs of words; None where there are hardly any letters."""
    total = covered = 0
    for words, runs in shingles(text):
        hit = [False] * len(words)
        for at, run in enumerate(runs):
            if run in known:
                hit[at : at + SHINGLE] = [True] * SHINGLE
        total += sum(map(len, words))
        covered += sum(len(word) for word, is_hit in zip(words, hit, strict=True) if is_hit)
    return covered / total if total >= 10 else None


def measure(
    code: str, found: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, scripts: list[str | None], show: int
) -> list[Row]:
    latin = "Latn" in get_language(code).scripts
    candidates = [code if latin else "en", *OTHERS]
    identify, before = ScriptIdentifier(tokenizer, candidates), TokenCounts(tokenizer, candidates, scripts)
    counts: Counter[tuple[str, str, str]] = Counter()
    for piece in found:
        ids = tokenizer(piece.text, add_special_tokens=False)["input_ids"]
        row_BS = torch.tensor([ids])
        now = identify({"input_ids": row_BS, "labels": row_BS}, torch.zeros_like(row_BS))[0].language
        for way, told in (("now", now), ("before", before.tell(ids))):
            counts[piece.kind, way, "unknown" if told is None else "right" if told == code else "wrong"] += 1
        if now not in (code, None) and show:
            print(f"{code} taken for {now}: {piece.path}: {' '.join(piece.text.split())[:show]}")
    rows = []
    for kind in ("pages", "sections"):
        number = sum(count for (one, way, _), count in counts.items() if one == kind and way == "now")
        rows.append(Row(f"{code}, {kind}", "pieces", number, "pieces"))
        for way in ("before", "now"):
            for verdict in ("wrong", "unknown"):
                share = 100 * counts[kind, way, verdict] / max(1, number)
                rows.append(Row(f"{code}, {kind}", f"{verdict}, {way}", round(share, 3), "%"))
    return rows


def time_taken(found: Sequence[Piece], tokenizer: PreTrainedTokenizerBase) -> Row:
    """Of telling real sections in batches of eight: the fastest of five rounds."""
    identify, best, tokens = ScriptIdentifier(tokenizer, ["en", *OTHERS]), float("inf"), 0
    batches = []
    for at in range(0, len(found) - 7, 8):
        ids = [tokenizer(piece.text, add_special_tokens=False)["input_ids"] for piece in found[at : at + 8]]
        row_BS = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True, padding_value=-1)
        batches.append({"input_ids": row_BS.clamp(min=0), "labels": row_BS.where(row_BS >= 0, -100)})
        tokens += sum(map(len, ids))
    for _ in range(5):
        started = time.process_time()
        for batch in batches:
            identify(batch, segments_of(batch))
        best = min(best, time.process_time() - started)
    return Row(f"{len(batches)} batches of 8 sections", "time for 1,000 tokens", round(1e6 * best / tokens, 3), "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", nargs="+", required=True, metavar="CODE=FOLDER", help="folders of Markdown")
    parser.add_argument("--source", default="en", help="the language that the others were translated from")
    parser.add_argument("--tokenizer", required=True, help="a folder or a hub id")
    parser.add_argument("--every", type=int, default=1, help="read only one document in so many")
    parser.add_argument("--name", default="answer_language", help="of the file in results")
    parser.add_argument("--show", type=int, default=0, help="print so many characters of each piece told wrongly")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    scripts = [token_script(raw) for raw in token_bytes(tokenizer)]
    read: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for entry in args.documents:
        code, _, folder = entry.partition("=")
        read[code] += documents(Path(folder))
    known = {run for _, text in read[args.source] for _, runs in shingles(text) for run in runs}
    rows = [Row("tokenizer", "vocabulary", len(tokenizer), "tokens")]
    timed: list[Piece] = []
    for code, texts in read.items():
        texts = texts[:: args.every]
        kept, left = [], Counter[str]()
        for piece in (piece for path, text in texts for piece in pieces(path, text, tokenizer)):
            share = untranslated(piece.text, known)
            if share is None or (share >= 0.5 and code != args.source):
                left["without text" if share is None else "untranslated"] += 1
            else:
                kept.append(piece)
        rows += [Row(code, f"left out, {why}", count, "pieces") for why, count in sorted(left.items())]
        rows += measure(code, kept, tokenizer, scripts, args.show)
        timed += [piece for piece in kept if piece.kind == "sections"][:TIMED]
        print(*rows[-12:], sep="\n", flush=True)
    rows.append(time_taken(timed, tokenizer))
    print(rows[-1])
    print(_rows.write(args.name, rows))


if __name__ == "__main__":
    main()
