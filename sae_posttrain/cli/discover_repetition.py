"""`sae-posttrain discover repetition`: find the features of loops, in sampled responses or in given texts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..artefacts import LOOP_SAMPLE
from ..texts import load_rows, load_texts
from .discovery_run import DiscoveryRun, add_discovery_options, discovery_run
from .engine_options import TRANSFORMERS, VLLM, add_engine, add_shape, answer_shape, check_engine
from .engines import kept_responses, server_engine, stopped, vllm_engine
from .inputs import add_chat, add_loops, loop_settings, read_rows, uses_chat
from .output_files import check_file
from .processes import shares_work

if TYPE_CHECKING:
    from ..discovery import LoopSample
    from ..sampling import KeptResponses, SamplingEngine, SamplingSettings

_DENSE = "the mean residual in a loop's last period minus that in its first"


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    repetition = kinds.add_parser("repetition", help="find features whose activation grows while a text repeats itself")
    source = repetition.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts",
        metavar="FILE",
        help="file whose rows have a prompt (text or messages), from which the model is sampled until it loops",
    )
    source.add_argument(
        "--texts",
        metavar="SOURCE",
        help="instead of --prompts: texts in which the model loops, such as the .loops.jsonl of an earlier call",
    )
    by = "by how much the mean activation grows from a loop's first period to its last"
    add_discovery_options(repetition, select="contrast", by=by, per="layer", max_length=2048, dense=_DENSE)
    _add_loops(repetition.add_argument_group("loops"))
    add_engine(repetition.add_argument_group("engine that samples, with --prompts"))
    repetition.set_defaults(run=run)
    shares_work(repetition, when=lambda args: not args.endpoint)


def _add_loops(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--loops", type=int, default=32, help="number of loops to sample (default: %(default)s)")
    group.add_argument(
        "--max-new-tokens", type=int, default=512, help="token limit of each sampled response (default: %(default)s)"
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="temperature; 0 is greedy, which loops most (default: %(default)s)",
    )
    add_shape(group)
    add_chat(group)
    add_loops(group, tokens=True)


def run(args: argparse.Namespace) -> int:
    check_file(args.output)
    if bool(args.sae) == (args.select == "dense"):
        raise ValueError("--select dense takes no --sae." if args.sae else f"--select {args.select} needs --sae.")
    check_engine(args)
    if args.texts and (args.endpoint or args.engine != TRANSFORMERS):
        raise ValueError("--engine and --endpoint need --prompts: with --texts nothing is sampled.")
    texts: Sequence[str | list[int]] = _looping_texts(args) if args.texts else []
    prompts = [row["prompt"] for row in read_rows(args.prompts, "prompt", args.limit)] if args.prompts else []
    loops = loop_settings(args, tokens=True)
    with discovery_run(args) as setting:
        from ..discovery import discover_repetition_features

        if prompts:
            with _kept_engine(setting, prompts, args) as (engine, kept):
                try:
                    sample = _sampled(setting, prompts, args, engine, kept)
                except KeyboardInterrupt:
                    return stopped(kept if setting.state.is_main_process else None)
                texts = sample.texts
                setting.print(f"Found {sample}; the file has {len(prompts)} prompts.")
                written = setting.keep_loops(texts, len(sample.looped))
                setting.print(f"Wrote them to {written}. Give --texts {written} to discover again without sampling.\n")
                if kept is not None:
                    kept.remove()
        features = discover_repetition_features(
            setting.model, setting.tokenizer, setting.saes, texts, loop_settings=loops, **setting.options
        )
        setting.write(features, "Mean activation of each feature, by place in a loop and in ordinary text:")
    return 0


@contextmanager
def _kept_engine(
    setting: DiscoveryRun, prompts: Sequence[Any], args: argparse.Namespace
) -> Iterator[tuple[SamplingEngine, KeptResponses | None]]:
    """What samples, and the file of kept responses. Only transformers needs the model that reads the activations."""
    with _engine(setting, args) as engine:
        identity = {**engine.identity(), "chat": uses_chat(args, setting.tokenizer)}
        process = setting.state.process_index
        with kept_responses(args.output, identity, prompts, [asdict(_settings(args))], process=process) as kept:
            yield engine, kept


@contextmanager
def _engine(setting: DiscoveryRun, args: argparse.Namespace) -> Iterator[SamplingEngine]:
    if args.endpoint:
        yield server_engine(args)
    elif args.engine == VLLM:
        with vllm_engine(args) as engine:
            yield engine
    else:
        from ..sampling import TransformersEngine

        share = {"process": setting.state.process_index, "processes": setting.state.num_processes}
        yield TransformersEngine(setting.model, setting.tokenizer, args.batch_size, **share)


def _sampled(
    setting: DiscoveryRun,
    prompts: Sequence[Any],
    args: argparse.Namespace,
    engine: SamplingEngine,
    kept: KeptResponses | None,
) -> LoopSample:
    from ..discovery import sample_loops

    return sample_loops(
        None,
        setting.tokenizer,
        prompts,
        loops=args.loops,
        sampling=_settings(args),
        chat=uses_chat(args, setting.tokenizer),
        batch_size=args.batch_size,
        loop_settings=loop_settings(args, tokens=True),
        engine=engine,
        kept=kept,
    )


def _settings(args: argparse.Namespace) -> SamplingSettings:
    from ..sampling import SamplingSettings

    return SamplingSettings(args.temperature, 1.0, args.max_new_tokens, seed=args.seed, **answer_shape(args))


def _looping_texts(args: argparse.Namespace) -> Sequence[str | list[int]]:
    """The token ids of a .loops.jsonl file, so that the model reads the exact tokens it sampled; else texts."""
    rows = load_rows(args.texts) if args.texts.endswith(LOOP_SAMPLE) else []
    if rows and all(isinstance(row.get("ids"), list) for row in rows):
        return [row["ids"] for row in rows[: args.limit]]
    return load_texts(args.texts, column=args.column, limit=args.limit)
