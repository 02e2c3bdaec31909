"""What the detectors of switches find in real documents with their code and markup, and in what is put into them.

    python benchmarks/switch_documents.py en=FOLDER de=FOLDER,FOLDER ja=FOLDER … [--hits FILE]

Each folder holds Markdown in one language (.md, .mdx); a file .jsonl.gz with a column `text` will do as well. Of a
paragraph that stands in the documents of two languages at least one is not translated, so it is left out everywhere but
in English. Hits are false positives or passages that are in another language indeed: which of them, somebody has to say
who reads them. `--hits` writes them with a key; `results/switch_documents_judged.csv` holds what was said, by key. A
phrase that takes up half of its paragraph's words, or more, is taken for an untranslated paragraph without a look.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import _rows
import regex
from _rows import Row

from sae_posttrain.metrics import PhraseFinder, Span, blank, unexpected_spans
from sae_posttrain.metrics.words import count_words
from sae_posttrain.texts import load_texts

JUDGED = _rows.RESULTS / "switch_documents_judged.csv"
GUESTS = ("zh", "zh-Hant", "ja", "ko", "ru")  # languages of other scripts than Latin that are put into others
LATIN = ("en", "de", "fr", "es", "pt")
INSERTED = 500  # of each kind, host and guest
CLAUSES = ((4, 6), (7, 12), (13, 25))  # words
UNSPACED = regex.compile(r"[\p{Hani}\p{Hira}\p{Kana}]")
WORDS = {"zh": r"\p{Hani}{2,4}", "ja": r"[\p{Hani}\p{Hira}\p{Kana}]{2,8}", "ko": r"\p{Hang}{2,}", "ru": r"\p{Cyrl}{3,}"}
SENTENCES = {"zh": r"[\p{Hani}，、]{10,40}", "ja": r"[\p{Hani}\p{Hira}\p{Kana}ー、]{10,40}"}
SPACED = r"\p{L}+(?: \p{L}+){4,11}"
FENCE = regex.compile(r"^[ \t>]*(?:[-*+] +|\d+[.)] +)?(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
MIN_HOST = 60  # characters of prose


def paragraphs(text: str) -> Iterator[str]:
    """Parted by blank lines, those inside fences left alone."""
    lines: list[str] = []
    opened: str | None = None
    for line in text.split("\n"):
        match = FENCE.match(line)
        if match and opened is None:
            opened = match["mark"]
        elif match and opened is not None and match["mark"].startswith(opened) and not match["info"].strip():
            opened = None
        if line.strip() or opened is not None:
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def read(source: str) -> list[str]:
    found: list[str] = []
    for folder in source.split(","):
        if folder.endswith(".gz"):
            found += load_texts(folder)
            continue
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".md", ".mdx"))
        if not files:
            raise SystemExit(f"{folder} holds no .md or .mdx.")
        for path in files:
            found += paragraphs(path.read_text(encoding="utf-8", errors="replace"))
    return found


def translated(documents: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without paragraphs that stand in two languages' documents, which are not in one of the languages."""
    homes: dict[str, set[str]] = {}
    for code, texts in documents.items():
        for text in texts:
            homes.setdefault(text, set()).add(code)
    return {
        code: [text for text in texts if code == "en" or len(homes[text]) == 1] for code, texts in documents.items()
    }


def key_of(kind: str, code: str, text: str) -> str:
    return sha256(f"{kind} {code} {text}".encode()).hexdigest()[:16]


def judged() -> dict[str, str]:
    if not JUDGED.exists():
        return {}
    with JUDGED.open(encoding="utf-8", newline="") as file:
        return {row["key"]: row["verdict"] for row in csv.DictReader(file)}


def ordinary(kind: str, code: str, texts: Sequence[str], finder: PhraseFinder, hits: list[dict[str, str]]) -> list[Row]:
    """How many paragraphs hold a hit, and what was said of them."""
    verdicts, counts = judged(), dict.fromkeys(("hits", "mostly", "foreign", "false", "unjudged"), 0)
    for text in texts:
        spans = unexpected_spans(text, code) if kind == "script" else finder.find(text, code)
        if not spans:
            continue
        counts["hits"] += 1
        if kind == "phrases" and 2 * share_of_words(text, spans) >= 1:
            counts["mostly"] += 1
            continue
        key = key_of(kind, code, text)
        counts[verdicts.get(key, "unjudged")] += 1
        found = " | ".join(" ".join(span.text.split()) for span in spans[:4])
        hits.append({"key": key, "kind": kind, "language": code, "found": found[:300]})
    case = f"{code}: paragraphs of documents, by {kind}"
    rows = [Row(case, "paragraphs", len(texts), "paragraphs"), Row(case, "with a hit", counts["hits"], "paragraphs")]
    if kind == "phrases":
        rows.append(Row(case, "wholly or mostly in another language", counts["mostly"], "paragraphs"))
    rows += [
        Row(case, "hit judged: foreign indeed", counts["foreign"], "paragraphs"),
        Row(case, "hit judged: false", counts["false"], "paragraphs"),
        Row(case, "hit not judged", counts["unjudged"], "paragraphs"),
    ]
    return rows


def share_of_words(text: str, spans: Sequence[Span]) -> float:
    prose = blank(text)
    return sum(count_words(prose[span.start : span.end]) for span in spans) / max(1.0, count_words(prose))


def insert(rng: random.Random, host: str, piece: str) -> str:
    """Between two words of the host's prose; where there are no spaces, between two characters."""
    prose = blank(host)
    places = [match.start() for match in regex.finditer(r"(?<=\p{L}[,.]? )\p{L}", prose)]
    if UNSPACED.search(prose):
        places = [
            match.start() for match in regex.finditer(r"(?<=[\p{Hani}\p{Hira}\p{Kana}])(?=[\p{Hani}\p{Hira}])", prose)
        ]
    at = rng.choice(places or [len(host)])
    around = "" if UNSPACED.search(prose) else " "
    return f"{host[:at]}{piece}{around}{host[at:]}"


def pieces(texts: Sequence[str], pattern: str) -> list[str]:
    compiled = regex.compile(rf"(?<!\p{{L}}){pattern}(?!\p{{L}})")
    return [match for text in texts for match in compiled.findall(blank(text))]


def by_script(rng: random.Random, documents: dict[str, list[str]]) -> list[Row]:
    """Recall of words and sentences of other scripts, and of Chinese and Japanese in one another."""
    rows = []
    words, sentences = {}, {}
    for code in (one for one in GUESTS if one in documents):
        base = code.partition("-")[0]
        words[code] = pieces(documents[code], WORDS[base])
        whole = pieces(documents[code], SENTENCES.get(base, SPACED))
        sentences[code] = [one for one in whole if regex.search(WORDS[base], one)]
    for code, texts in documents.items():
        hosts = [text for text in texts if len(blank(text).split()) > 1 and len(blank(text)) >= MIN_HOST]
        hosts = [text for text in hosts if not unexpected_spans(text, code)]
        for guest in (one for one in words if one.partition("-")[0] != code.partition("-")[0]):
            for name, choice in (("words", words[guest]), ("sentences", sentences[guest])):
                made = [insert(rng, rng.choice(hosts), rng.choice(choice)) for _ in range(INSERTED)]
                share = sum(bool(unexpected_spans(text, code)) for text in made) / len(made)
                rows.append(Row(f"{code}: {name} of {guest} put in", "found by script", round(share, 4), "share"))
    return rows


def by_phrase(rng: random.Random, documents: dict[str, list[str]], finder: PhraseFinder) -> list[Row]:
    """Recall of clauses of one Latin-script language in the others."""
    rows = []
    prose = {code: [" ".join(blank(text).split()) for text in documents[code]] for code in LATIN if code in documents}
    clean = {code: [text for text in texts if len(text.split()) >= 30] for code, texts in prose.items()}
    clean = {code: [text for text in texts if not finder.find(text, code)] for code, texts in clean.items()}
    for code, hosts in clean.items():
        for low, high in CLAUSES:
            found = 0
            for _ in range(INSERTED):
                guest = rng.choice([one for one in clean if one != code])
                words = rng.choice(clean[guest]).split()
                length = rng.randint(low, high)
                first = rng.randint(0, len(words) - length)
                host = rng.choice(hosts).split()
                at = rng.randint(0, len(host))
                text = " ".join([*host[:at], *words[first : first + length], *host[at:]])
                found += bool(finder.find(text, code))
            case = f"{code}: clauses of {low} to {high} words of other languages put in"
            rows.append(Row(case, "found as a phrase", round(found / INSERTED, 4), "share"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", metavar="LANGUAGE=FOLDER", help="several folders with commas")
    parser.add_argument("--hits", type=Path, help="write what was found in ordinary paragraphs, to be judged")
    args = parser.parse_args()
    sources = dict(entry.split("=", 1) for entry in args.documents)
    documents = translated({code: read(source) for code, source in sources.items()})
    finder, rng = PhraseFinder(), random.Random(0)
    rows: list[Row] = []
    hits: list[dict[str, str]] = []
    for code, texts in documents.items():
        for kind in ("script", "phrases") if code in LATIN else ("script",):
            rows += ordinary(kind, code, texts, finder, hits)
    rows += by_script(rng, documents) + by_phrase(rng, documents, finder)
    if args.hits:
        args.hits.write_text("".join(json.dumps(hit, ensure_ascii=False) + "\n" for hit in hits), encoding="utf-8")
    for row in rows:
        print(f"{row.case:60}{row.measure:40}{row.value:12.4f} {row.unit}")
    print(_rows.write("switch_documents", rows))


if __name__ == "__main__":
    main()
