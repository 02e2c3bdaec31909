"""Sample the responses that are measured: kept as they come, shared by processes, and reported on when stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...metrics.thinking import opens_thinking
from ...texts import Row
from ..engines import Opened, opened_engine, steered_by
from ..output_files import is_device
from .responses import sampled_at, sampling_of

if TYPE_CHECKING:
    from ...sampling import KeptResponses, Response, SampledRun, SamplingSettings

INTERRUPTED = 130
"""Exit code after Ctrl-C, as the shell's."""


@dataclass
class Sampled:
    """The rows of the sampled responses, and how the sampling ended.

    Args:
        rows: one for each response.
        main: whether this process reports; others of a distributed run do not.
        interrupted: whether the user stopped it, so that responses are missing.
        kept: the file of kept responses, if there is one.
        failures: how many responses could not be sampled.
    """

    rows: list[Row]
    main: bool = True
    interrupted: bool = False
    kept: KeptResponses | None = None
    failures: int = 0

    def written(self) -> None:
        """The output is complete: the kept responses are needed only to try failed ones again."""
        if self.kept is not None and not self.failures:
            self.kept.remove()


def sample(rows: Sequence[Row], args: argparse.Namespace) -> Sampled:
    """A row for each response to the prompts in `rows`."""
    from ...sampling import sample_run

    settings = sampling_of(args)
    prompts = [row["prompt"] for row in rows]
    with opened_engine(args) as opened:
        engine, sampled = opened.engine, Sampled([], opened.process == 0)
        turns = _turns(settings, engine.gives_ids)
        with _kept(args, opened, prompts, [turn[-1] for turn in turns]) as sampled.kept:
            for number, turn in enumerate(turns):
                how = {"samples": args.samples, "kept": sampled.kept, "number": number, "progress": sampled.main}
                run = _together(sample_run(engine, prompts, turn[-1], **how), opened)
                sampled.rows += _rows(rows, run, turn, args, opened)
                sampled.failures += len(run.failures)
                if sampled.main:
                    _tell_failures(run, prompts)
                if run.interrupted:
                    sampled.interrupted = True
                    break
        _tell_interrupt(sampled, len(prompts) * sum(1 if one.greedy else args.samples for one in settings))
    return sampled


def _turns(settings: Sequence[SamplingSettings], gives_ids: bool) -> list[list[SamplingSettings]]:
    """Settings that are sampled together: what differs in length alone is sampled once, to the largest, and cut."""
    if not gives_ids:
        return [[one] for one in settings]
    return [list(group) for _, group in groupby(settings, key=lambda one: (one.temperature, one.top_p))]


@contextmanager
def _kept(
    args: argparse.Namespace, opened: Opened, prompts: Sequence[Any], settings: Sequence[SamplingSettings]
) -> Iterator[KeptResponses | None]:
    """The file of kept responses; without --output, or with a device such as /dev/stdout, there is none."""
    from ...sampling import KeptResponses, describe_run

    if not args.output or is_device(Path(args.output)):
        yield None
        return
    identity = {**opened.engine.identity(), **steered_by(args)}
    run = describe_run(prompts, identity, [asdict(one) for one in settings], args.samples)
    with KeptResponses(args.output, run, opened.process) as kept:
        if kept.found:
            print(f"{kept.path} holds {len(kept.found)} responses; the run goes on from there.", file=sys.stderr)
        yield kept


def _together(run: SampledRun, opened: Opened) -> SampledRun:
    """The responses of all processes."""
    if opened.processes == 1:
        return run
    from accelerate.utils import gather_object

    for other in gather_object([run]):
        for found, more in zip(run.responses, other.responses, strict=True):
            found.update(more)
        run.failures |= other.failures
        run.interrupted |= other.interrupted
    return run


def _rows(
    rows: Sequence[Row],
    run: SampledRun,
    turn: Sequence[SamplingSettings],
    args: argparse.Namespace,
    opened: Opened,
) -> Iterator[Row]:
    thinks = opened.chat and opens_thinking(opened.tokenizer, args.thinking_tags[0], args.chat_template_args)
    more: Row = {"thinking_opened": True} if thinks else {}
    pairs = [(row, one) for row, found in zip(rows, run.in_order(), strict=True) for one in found]
    for settings in turn:
        setting = sampled_at(args, settings)
        for row, one in pairs:
            cut: Response = one if len(turn) == 1 else one.cut(settings.max_new_tokens, opened.tokenizer)
            yield {**row, **setting, **more, **cut.to_row()}


def _tell_failures(run: SampledRun, prompts: Sequence[Any]) -> None:
    if run.failures:
        (prompt, number), error = min(run.failures.items())
        print(
            f"{len(run.failures)} responses could not be sampled and are left out. The first is response {number + 1} "
            f"to prompt {prompt + 1} of {len(prompts)}: {error} Run the same command again to try them again.",
            file=sys.stderr,
        )


def _tell_interrupt(sampled: Sampled, wanted: int) -> None:
    if not sampled.interrupted or not sampled.main:
        return
    if not sampled.rows:
        raise ValueError("Stopped before there was any response.")
    goes_on = (
        "The same command goes on with the others."
        if sampled.kept
        else "They are not kept: give --output next time, and the same command goes on where it was stopped."
    )
    print(f"Stopped: the report is on {len(sampled.rows)} of {wanted} responses. {goes_on}", file=sys.stderr)
