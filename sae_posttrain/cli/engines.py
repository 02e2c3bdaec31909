"""The engine that a command's options stand for, and the file in which its responses are kept."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .engine_options import VLLM, endpoint_of
from .inputs import load_model, uses_chat
from .output_files import is_device
from .processes import INTERRUPTED, launched_processes

if TYPE_CHECKING:
    from ..sampling import KeptResponses, SamplingEngine, ServerEngine
    from ..sampling.vllm import VllmEngine


class Opened(NamedTuple):
    """An engine, and this process's part in the run.

    Args:
        engine: what samples.
        tokenizer: the model's, where it is here.
        chat: whether prompts go through the chat template.
        process: number of this process.
        processes: how many there are.
    """

    engine: SamplingEngine
    tokenizer: Any
    chat: bool
    process: int = 0
    processes: int = 1


@contextmanager
def opened_engine(args: argparse.Namespace) -> Iterator[Opened]:
    """The engine that the options ask for, with its model loaded."""
    if args.endpoint:
        served = server_engine(args)
        yield Opened(served, None, served.chat)
    elif args.engine == VLLM:
        from ..steering.vllm_plugin import ALPHA

        steered = {ALPHA: _alpha(args)} if args.features else {}
        with vllm_engine(args, args.features, steered) as engine:
            yield Opened(engine, engine.tokenizer, bool(engine.chat))
    else:
        with _transformers(args) as opened:
            yield opened


@contextmanager
def _transformers(args: argparse.Namespace) -> Iterator[Opened]:
    from ..sampling import TransformersEngine
    from ..steering import steer

    with launched_processes() as state:
        model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device, adapter=args.adapter)
        chat = uses_chat(args, tokenizer)
        share = {"process": state.process_index, "processes": state.num_processes}
        engine = TransformersEngine(model, tokenizer, args.batch_size, chat, **share)
        with steer(model, args.features, alpha=_alpha(args)) if args.features else nullcontext():
            yield Opened(engine, tokenizer, chat, **share)


def server_engine(args: argparse.Namespace) -> ServerEngine:
    """The engine for the server of --endpoint."""
    from ..metrics.messages import message_text
    from ..metrics.thinking import TAGS
    from ..sampling import ServerEngine

    tags = getattr(args, "thinking_tags", TAGS)
    return ServerEngine(endpoint_of(args), args.chat is not False, message_text, (tags[0], tags[1]))


@contextmanager
def vllm_engine(
    args: argparse.Namespace, features: str | None = None, extra_args: Mapping[str, Any] | None = None
) -> Iterator[VllmEngine]:
    """vLLM in this process, which is shut down at the end of the block.

    Args:
        args: the options.
        features: feature set that vLLM's processes steer with.
        extra_args: as in `VllmEngine`.
    """
    from ..sampling.vllm import VllmEngine
    from ..steering.vllm_plugin import FEATURES

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--engine vllm starts its own processes: use --tensor-parallel-size, not accelerate launch.")
    # vLLM's processes read the variable when they start.
    with _variables({FEATURES: features} if features else {}):
        engine = VllmEngine(
            args.model,
            adapter=getattr(args, "adapter", None),
            dtype=args.dtype,
            chat=args.chat,
            tensor_parallel_size=args.tensor_parallel_size,
            extra_args=extra_args or {},
            options=args.vllm_args,
        )
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def steered_by(args: argparse.Namespace) -> dict[str, Any]:
    """What the responses are steered with, to tell runs apart: the file's content counts, since it may be replaced."""
    if not args.features:
        return {"features": None, "alpha": None}
    from ..feature_set import FeatureSet

    return {"features": FeatureSet.load(args.features).sha256, "alpha": _alpha(args)}


def _alpha(args: argparse.Namespace) -> float:
    from ..feature_set import FeatureSet

    alpha: float | None = args.alpha if args.alpha is not None else FeatureSet.load(args.features).alpha
    if alpha is None:
        raise ValueError("--alpha: this feature set was not calibrated, so say how strongly to steer, such as 4.")
    return alpha


@contextmanager
def kept_responses(
    output: str | None,
    identity: Mapping[str, Any],
    prompts: Sequence[Any],
    settings: Sequence[Mapping[str, Any]],
    *,
    samples: int = 1,
    process: int = 0,
) -> Iterator[KeptResponses | None]:
    """The file of kept responses beside an output; without an output, or with a device such as /dev/stdout, None.

    Args:
        output: the file that the command writes at its end.
        identity: everything but prompts, settings and samples that the responses depend on.
        prompts, settings, samples: as in `describe_run`.
        process: number of this process.
    """
    from ..sampling import KeptResponses, describe_run

    if not output or is_device(Path(output)):
        yield None
        return
    with KeptResponses(output, describe_run(prompts, identity, settings, samples), process) as kept:
        if kept.found and process == 0:
            print(f"{kept.path} holds {len(kept.found)} responses; the run goes on from there.", file=sys.stderr)
        yield kept


def stopped(kept: KeptResponses | None) -> int:
    """Say after Ctrl-C what is kept. Returns the exit code."""
    if kept is not None:
        print(
            f"Stopped. {kept.path} holds {len(kept.found)} responses; the same command goes on from there.",
            file=sys.stderr,
        )
    return INTERRUPTED
