"""`sae-posttrain measure code-switching --expected`: estimate the rate from the model's next-token probabilities."""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...metrics.messages import clusters_of
from ...texts import Row
from ..engines import DEFAULTS
from ..inputs import load_model, uses_chat
from ..output_files import check_file
from .metric import Metric
from .reporting import finish, rehearse
from .responses import check_allowed, check_sampling, ended, read_source

if TYPE_CHECKING:
    from ...expected import Setting
    from ...metrics.expectation import ExpectedSwitch, ExpectedSwitchReport

FOR_WORDS = ("phrases", "ignore_prompt", "ignore_glosses", "han_without_kana", "count_code", "count_urls", "published")
"""Options that select words. They do not apply here, because this measure reads tokens."""
COLUMN = "expected"
"""Column of a row that holds the probabilities of its response."""
LEAST = 1e-12  # smaller probabilities are not written
SETTINGS = ("temperature", "top_p", "max_new_tokens")


def run(args: argparse.Namespace) -> int:
    """Compute switch probabilities along given responses (--responses) or sampled ones (--prompts), and report them.

    Without --model, the probabilities are read from the file that an earlier run wrote.
    """
    from ...metrics.expectation import expected_switch_report
    from ...metrics.expected_comparison import compare_expected

    _check(args)

    def report_of(rows: Sequence[Row]) -> ExpectedSwitchReport:
        found = [_probabilities(row, cluster) for row, cluster in zip(rows, clusters_of(rows), strict=True)]
        kept = [one for one in found if one is not None]
        skipped = len(found) - len(kept)
        return expected_switch_report(kept, skipped=skipped, confidence=args.confidence, seed=args.seed)

    against = _read_against(args)
    if against:
        report_of(against)  # raises if the other run has no probabilities, before its settings are compared
    rows = read_source(args, language=True)
    check_allowed(rows)
    options: dict[str, Any] = {"expected": True, "to": args.to}
    if args.model:
        options |= {name: getattr(args, name) for name in ("model", "adapter", *SETTINGS)}
    metric = Metric(report_of, lambda row: None, compare_expected, options=options)
    if args.model:  # measuring takes long, so errors in the later steps are found first
        placeholders = _placeholder_rows(rows, args)
        rehearse(placeholders, *_rest(placeholders, against, args), metric)
        rows = list(_measured(rows, args))
    return finish(rows, *_rest(rows, against, args), metric)


def _rest(
    rows: Sequence[Row], against: Sequence[Row], args: argparse.Namespace
) -> tuple[list[Row], argparse.Namespace]:
    """The other run's rows, and the options for `finish`, which treats measured rows like responses from a file.

    The probabilities are for whole responses, so there is one report, with or without thinking.
    """
    several = [name for name in SETTINGS[:2] if len({row.get(name) for row in rows}) > 1]
    options = {**vars(args), "model": None, "by": [*several, *args.by], "thinking": "strip"}
    return _at_settings_of(rows, against, args.against), argparse.Namespace(**options)


def _placeholder_rows(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """Rows with the columns of measured rows, for each setting."""
    found: Row = {COLUMN: {"any": 0.5, "begun": 0.0, "into": {"Cyrl": 0.25, "Hani": 0.25}}}
    found |= {} if args.responses else {"response": "a", "finish_reason": "stop", "tokens": 1}
    settings = [{"temperature": one, "top_p": top_p} for one in args.temperature for top_p in args.top_p]
    return [{**row, **setting, **found} for setting in settings for row in rows]


def _check(args: argparse.Namespace) -> None:
    """Check the options before anything is loaded. Raises: ValueError: an option that --expected does not support."""
    for name in FOR_WORDS:
        if getattr(args, name) not in (None, False):
            option = name.replace("_", "-")
            raise ValueError(f"--{option} cannot be used with --expected, which measures tokens by their script alone.")
    if args.thinking != "both":
        raise ValueError("--thinking cannot be used with --expected, which measures the whole response.")
    if len(set(args.max_new_tokens)) > 1:
        raise ValueError("--expected reads responses up to one length. Give one value for --max-new-tokens.")
    for name in (name for name in DEFAULTS if getattr(args, name) != DEFAULTS[name]):
        raise ValueError(
            f"--{name.replace('_', '-')} cannot be used with --expected, which reads transformers' logits."
        )
    check_sampling(args)
    if args.output:
        check_file(args.output)


def _read_against(args: argparse.Namespace) -> list[Row]:
    if not args.against:
        return []
    if args.by:
        raise ValueError("--against compares one run with one other. Leave out --by.")
    if args.csv:
        raise ValueError("--csv cannot print a comparison; use --json.")
    other = {"responses": args.against, "model": None, "adapter": None, "prompts": None}
    return read_source(argparse.Namespace(**{**vars(args), **other}), language=True)


def _at_settings_of(rows: Sequence[Row], against: Sequence[Row], source: str | None) -> list[Row]:
    """The rows of the other run that were measured at the same settings as `rows`."""

    def setting(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in SETTINGS[:2])

    wanted, there = {setting(row) for row in rows}, {setting(row) for row in against}
    if against and not wanted <= there:
        raise ValueError(
            f"--against {source} was measured at temperature and top_p {sorted(there)}, this run at {sorted(wanted)}. "
            "Measure both at the same settings."
        )
    return [row for row in against if setting(row) in wanted]


def _measured(rows: Sequence[Row], args: argparse.Namespace) -> Iterator[Row]:
    """The rows with their responses and probabilities, for one setting after another."""
    from accelerate import PartialState

    from ...expected import Setting, switch_probabilities
    from ...metrics import allowed_in
    from ...sampling import SamplingSettings, sample_responses

    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device, adapter=args.adapter)
    settings = [Setting(temperature, top_p) for temperature in args.temperature for top_p in args.top_p]
    common: dict[str, Any] = {
        "to": args.to,
        "count_latin": args.count_latin,
        "chat": uses_chat(args, tokenizer),
        "max_tokens": args.max_new_tokens[0],
        "batch_size": args.batch_size,
    }

    def ask(rows: Sequence[Row], responses: Sequence[Any], settings: Sequence[Setting], **how: Any) -> Iterator[Row]:
        found = switch_probabilities(
            model,
            tokenizer,
            [row.get("prompt") for row in rows],
            responses,
            [row["language"] for row in rows],
            settings=settings,
            allowed=[[*args.allow, *allowed_in(row)] for row in rows],
            **how,
            **common,
        )
        for setting, answers in found.items():
            for row, answer in zip(rows, answers, strict=True):
                yield {**row, **asdict(setting), COLUMN: None if answer is None else _plain(answer)}

    if args.responses:
        yield from ask(rows, [row["response"] for row in rows], settings, ended=ended(rows))
        return
    for setting in settings:
        answers = sample_responses(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            SamplingSettings(**asdict(setting), max_new_tokens=args.max_new_tokens[0], seed=args.seed),
            samples=args.samples,
            batch_size=args.batch_size,
            chat=common["chat"],
        )
        sampled = [(row, one) for row, found in zip(rows, answers, strict=True) for one in found]
        told = [{**row, **one.to_row()} for row, one in sampled]
        yield from ask(told, [one.ids for _, one in sampled], [setting], sampled=True)


def _plain(answer: ExpectedSwitch) -> Row:
    into = {script: probability for script, probability in answer.into.items() if probability >= LEAST}
    return {"any": answer.any, "begun": answer.begun, "into": into}


def _probabilities(row: Row, cluster: Hashable) -> ExpectedSwitch | None:
    from ...metrics.expectation import ExpectedSwitch

    if COLUMN not in row:
        raise ValueError(
            f"A row has no column {COLUMN!r}. Write the rows with `measure code-switching --expected --model MODEL "
            "--responses FILE --output FILE`, or give --model."
        )
    found = row[COLUMN]
    return (
        None if found is None else ExpectedSwitch(row["language"], cluster, found["any"], found["into"], found["begun"])
    )
