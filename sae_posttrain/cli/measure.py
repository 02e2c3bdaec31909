"""`sae-posttrain measure`: how often responses, given or sampled from a model, go wrong."""

from __future__ import annotations

import argparse
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..languages import get_language
from .inputs import Row, add_chat, load_model, read_rows, uses_chat

_SAMPLING = ("samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("measure", help="measure responses, given or sampled from a model")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    switching = kinds.add_parser(
        "code-switching", help="share of responses that leave their language's script, with an interval"
    )
    repetition = kinds.add_parser("repetition", help="share of responses that end in an endless loop, with an interval")
    for kind, run in ((switching, run_switching), (repetition, run_repetition)):
        _add_source(kind)
        _add_sampling(kind.add_argument_group("sampling, with --model"))
        kind.set_defaults(run=run)
    switching.add_argument("--language", metavar="CODE", help="language of the rows that name none")
    _add_switching(switching.add_argument_group("what counts"))
    _add_repetition(repetition.add_argument_group("what counts"))


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--responses", metavar="FILE", help="rows with response and perhaps prompt")
    source.add_argument("--model", help="folder or hub id to sample responses from")
    parser.add_argument("--adapter", help="folder or hub id of a PEFT adapter for --model")
    parser.add_argument("--prompts", metavar="FILE", help="rows with prompt (text or messages)")
    parser.add_argument("--limit", type=int, help="rows read (default: all)")
    parser.add_argument("--output", metavar="FILE", help="write responses and what was found in them as .jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the interval (default: 0.95)")


def _add_switching(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--to", nargs="+", metavar="CODE", help="only switches into these languages or scripts")
    group.add_argument("--ignore-prompt", action="store_true", help="leave out words that occur in the prompt")
    group.add_argument("--count-code", action="store_true", help="count inside code too, as published")
    group.add_argument("--count-urls", action="store_true", help="count inside URLs too, as published")
    group.add_argument("--count-latin", action="store_true", help="count Latin words in other scripts")
    group.add_argument("--allow", nargs="+", default=[], metavar="WORD", help="scripts or words that are fine")


def _add_repetition(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--min-repeats", type=int, default=4, help="whole periods a loop has (default: 4)")
    group.add_argument("--min-length", type=int, default=100, help="characters a loop has (default: 100)")
    group.add_argument("--fold-digits", action="store_true", help="take all digits for alike, so that counters loop")


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--samples", type=int, default=8, help="responses per prompt (default: 8)")
    group.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    group.add_argument("--top-p", type=float, default=0.8, help="default: 0.8, as published")
    group.add_argument("--max-new-tokens", type=int, default=2048, help="default: 2048")
    group.add_argument("--batch-size", type=int, default=32, help="responses at once (default: 32)")
    group.add_argument("--seed", type=int, default=0, help="of the sampling and of the interval (default: 0)")
    group.add_argument("--dtype", default="auto", help="of the model: auto, bfloat16, float32, … (default: auto)")
    add_chat(group)


def run_switching(args: argparse.Namespace) -> int:
    from ..metrics import code_switching_rate, unexpected_spans

    rows = _respond(_with_language(_read(args), args), args)
    prompts = [_prompt_text(row.get("prompt")) for row in rows]
    if args.ignore_prompt and not all(row.get("prompt") for row in rows):
        raise ValueError("--ignore-prompt: some rows have no prompt; add the column, or leave the option out")
    options = {
        "ignore_code": not args.count_code,
        "ignore_urls": not args.count_urls,
        "count_latin": args.count_latin,
        "allowed": args.allow,
    }
    report = code_switching_rate(
        [row["response"] for row in rows],
        [row["language"] for row in rows],
        prompts=prompts if args.ignore_prompt else None,
        to=args.to,
        clusters=_clusters(rows),
        confidence=args.confidence,
        seed=args.seed,
        **options,
    )
    if args.output:
        for row, prompt in zip(rows, prompts, strict=True):
            quoted = prompt if args.ignore_prompt else None
            spans = unexpected_spans(row["response"], row["language"], prompt=quoted, **options)
            row["unexpected"] = [asdict(span) for span in spans]
        _write(rows, Path(args.output))
    _show(report, args, to=args.to)
    return 0


def run_repetition(args: argparse.Namespace) -> int:
    from ..metrics import find_loop, fold_digits, repetition_rate

    rows = _respond(_read(args), args)
    texts = [fold_digits(row["response"]) if args.fold_digits else row["response"] for row in rows]
    least = {"min_repeats": args.min_repeats, "min_length": args.min_length}
    report = repetition_rate(texts, clusters=_clusters(rows), confidence=args.confidence, seed=args.seed, **least)
    if args.output:
        for row, text in zip(rows, texts, strict=True):
            loop = find_loop(text, **least)
            row["loop"] = loop and {**asdict(loop), "text": row["response"][loop.start : loop.start + loop.period]}
        _write(rows, Path(args.output))
    _show(report, args, fold_digits=args.fold_digits)
    return 0


def _read(args: argparse.Namespace) -> list[Row]:
    """Rows that surely have a response, or a prompt to sample from."""
    for name in ("adapter", "prompts"):
        if args.responses and getattr(args, name):
            raise ValueError(f"--{name} goes with --model; with --responses nothing is generated")
    if args.model and not args.prompts:
        raise ValueError("--model needs --prompts: a file of rows with a prompt")
    source, column = (args.responses, "response") if args.responses else (args.prompts, "prompt")
    return read_rows(source, column, args.limit)


def _with_language(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """The rows, each surely with a known `language`."""
    found = []
    for number, row in enumerate(rows, start=1):
        where, language = f"{args.responses or args.prompts}, row {number}", row.get("language") or args.language
        if not language:
            raise ValueError(f"{where}: no 'language'; add the column, or give --language CODE for all")
        try:
            get_language(language)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        found.append({**row, "language": language})
    return found


def _respond(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """A row for each response, sampled unless it is there."""
    if args.responses:
        return list(rows)
    from accelerate import PartialState

    from ..generation import sample_responses

    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device, adapter=args.adapter)
    responses = sample_responses(
        model,
        tokenizer,
        [row["prompt"] for row in rows],
        chat=uses_chat(args, tokenizer),
        **{name: getattr(args, name) for name in _SAMPLING},
    )
    return [{**row, "response": response} for row, found in zip(rows, responses, strict=True) for response in found]


def _prompt_text(prompt: str | Sequence[Mapping[str, Any]] | None) -> str:
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    return "\n".join(str(message.get("content", "")) for message in prompt)


def _clusters(rows: Sequence[Row]) -> list[Hashable]:
    """Samples of one prompt belong together; a row without a prompt stands by itself."""
    return [_prompt_text(row.get("prompt")) or index for index, row in enumerate(rows)]


def _show(report: Any, args: argparse.Namespace, **options: Any) -> None:
    settings = {name: getattr(args, name) for name in ("model", "adapter", *_SAMPLING)} if args.model else {}
    if args.json:
        print(json.dumps({**report.to_dict(), **options, **settings}, ensure_ascii=False, indent=2))
    else:
        print(report.table())


def _write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
