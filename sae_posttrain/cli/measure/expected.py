"""`sae-posttrain measure code-switching --expected`: estimate the rate from the model's next-token probabilities."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...metrics.messages import clusters_of
from ...texts import Row
from ..engine_options import DEFAULTS
from ..engines import kept_responses, opened_engine, stopped
from ..inputs import load_model, load_tokenizer, uses_chat
from ..output_files import check_file
from ..processes import INTERRUPTED
from .metric import Metric
from .reporting import finish, rehearse
from .responses import check_allowed, check_sampling, ended, read_source
from .sampled import tell_failures

if TYPE_CHECKING:
    from ...expected import Setting
    from ...metrics.expectation import ExpectedSwitch, ExpectedSwitchReport
    from ...sampling import KeptResponses, Response, SampledRun

FOR_WORDS = ("phrases", "ignore_prompt", "ignore_glosses", "han_without_kana", "count_code", "count_urls", "published")
"""Options that select words. They do not apply here, because this measure reads tokens."""
REFUSED = {
    **dict.fromkeys(("features", "alpha"), "the probabilities are those of the model without steering"),
    **dict.fromkeys(("top_k", "min_p"), "probabilities are computed for --temperature and --top-p alone"),
    "stop": "it measures whole responses",
    **dict.fromkeys(("system", "chat_template_args"), "it reads the prompts as they are in the file"),
}
"""Options of sampling that --expected cannot follow, and why."""
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
    kept: KeptResponses | None = None
    if args.model:  # measuring takes long, so errors in the later steps are found first
        placeholders = _placeholder_rows(rows, args)
        rehearse(placeholders, *_rest(placeholders, against, args), metric)
        measured = (list(_of_given(rows, args)), None) if args.responses else _of_sampled(rows, args)
        if measured is None:
            return INTERRUPTED
        rows, kept = measured
    code = finish(rows, *_rest(rows, against, args), metric)
    if kept is not None:
        kept.remove()
    return code


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
    _check_engine(args)
    check_sampling(args)
    if args.output:
        check_file(args.output)


def _check_engine(args: argparse.Namespace) -> None:
    """Check the options of what samples. Raises: ValueError: one that --expected does not support."""
    for name in REFUSED:
        if getattr(args, name) != DEFAULTS[name]:
            raise ValueError(f"--{name.replace('_', '-')} cannot be used with --expected: {REFUSED[name]}.")
    for name in ("engine", "endpoint"):
        if getattr(args, name) != DEFAULTS[name] and not args.prompts:
            raise ValueError(
                f"--{name} needs --prompts: it samples responses. Their probabilities always come from transformers, "
                "since vLLM and servers do not return those of the whole vocabulary."
            )


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


def _of_given(rows: Sequence[Row], args: argparse.Namespace) -> Iterator[Row]:
    """The rows of given responses with their probabilities, for one setting after another."""
    from accelerate import PartialState

    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device, adapter=args.adapter)
    read = _reader(model, tokenizer, args)
    yield from read(rows, [row["response"] for row in rows], _settings(args), ended=ended(rows))


def _settings(args: argparse.Namespace) -> list[Setting]:
    from ...expected import Setting

    return [Setting(temperature, top_p) for temperature in args.temperature for top_p in args.top_p]


def _of_sampled(rows: Sequence[Row], args: argparse.Namespace) -> tuple[list[Row], KeptResponses | None] | None:
    """The rows of sampled responses with their probabilities, and the file of kept responses; None after Ctrl-C.

    Any engine samples. The probabilities come from transformers, whose model is loaded after vLLM has ended.
    """
    from accelerate import PartialState

    from ...sampling import SamplingSettings, TransformersEngine, encode_prompts, sample_run

    settings, tokenizer = _settings(args), load_tokenizer(args.model)
    # As token ids, so that the prompts are the same for what samples and for what reads.
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows], uses_chat(args, tokenizer))
    asked = [
        SamplingSettings(**asdict(setting), max_new_tokens=args.max_new_tokens[0], seed=args.seed)
        for setting in settings
    ]
    runs: list[SampledRun] = []
    with opened_engine(args) as opened:
        identity, told = opened.engine.identity(), [asdict(one) for one in asked]
        with kept_responses(args.output, identity, prompts, told, samples=args.samples) as kept:
            for number, one in enumerate(asked):
                runs.append(sample_run(opened.engine, prompts, one, samples=args.samples, kept=kept, number=number))
                tell_failures(runs[-1], prompts)
                if runs[-1].interrupted:
                    stopped(kept)
                    return None
        model = opened.engine.model if isinstance(opened.engine, TransformersEngine) else None
    if model is None:
        model, _ = load_model(args.model, dtype=args.dtype, device=PartialState().device, adapter=args.adapter)
    read = _reader(model, tokenizer, args)
    found = [row for setting, run in zip(settings, runs, strict=True) for row in _read_run(read, rows, setting, run)]
    return found, None if any(run.failures for run in runs) else kept


def _read_run(
    read: Callable[..., Iterator[Row]], rows: Sequence[Row], setting: Setting, run: SampledRun
) -> Iterator[Row]:
    sampled = [(row, one) for row, found in zip(rows, run.in_order(), strict=True) for one in found]
    told = [{**row, **one.to_row()} for row, one in sampled]
    responses: list[Response] = [one for _, one in sampled]
    if all(one.ids or not one.text for one in responses):
        yield from read(told, [one.ids for one in responses], [setting], sampled=True)
    else:  # a server that returns only texts
        yield from read(told, [one.text for one in responses], [setting], ended=[one.ended for one in responses])


def _reader(model: Any, tokenizer: Any, args: argparse.Namespace) -> Callable[..., Iterator[Row]]:
    """A function that adds the probabilities of responses to their rows, for each setting."""
    from ...expected import switch_probabilities
    from ...metrics import allowed_in

    common: dict[str, Any] = {
        "to": args.to,
        "count_latin": args.count_latin,
        "chat": uses_chat(args, tokenizer),
        "max_tokens": args.max_new_tokens[0],
        "batch_size": args.batch_size,
    }

    def read(rows: Sequence[Row], responses: Sequence[Any], settings: Sequence[Setting], **how: Any) -> Iterator[Row]:
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

    return read


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
