"""Options for what samples responses, and the engine that they stand for."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .inputs import load_model, uses_chat
from .processes import launched_processes

if TYPE_CHECKING:
    from ..sampling import SamplingEngine

TRANSFORMERS, VLLM = "transformers", "vllm"
DEFAULTS: dict[str, Any] = {
    "engine": TRANSFORMERS,
    "endpoint": None,
    "features": None,
    "alpha": None,
    "top_k": 0,
    "min_p": 0.0,
    "stop": [],
    "system": None,
    "chat_template_args": {},
}
"""Options that shape responses, but mostly keep their defaults; results name those that do not."""


def add_engine(group: argparse._ArgumentGroup) -> None:
    """Add the options that choose an engine."""
    group.add_argument(
        "--engine",
        choices=(TRANSFORMERS, VLLM),
        default=TRANSFORMERS,
        help="library that samples the responses in this process (default: %(default)s)",
    )
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="instead, sample from a running server with OpenAI's protocol, such as http://localhost:8000/v1; --model "
        "is then the model's name there",
    )
    group.add_argument(
        "--api-key-variable",
        metavar="NAME",
        help="environment variable that holds the key for --endpoint (default: no key is sent)",
    )
    group.add_argument(
        "--concurrency", type=int, default=32, help="requests to --endpoint at once (default: %(default)s)"
    )
    group.add_argument(
        "--tensor-parallel-size", type=int, default=1, help="GPUs that share the model, with --engine vllm (default: 1)"
    )
    group.add_argument(
        "--vllm-args",
        nargs="+",
        type=_setting,
        action=_Values,
        default={},
        metavar="NAME=VALUE",
        help="more arguments of vLLM's LLM, such as max_model_len=8192",
    )
    group.add_argument("--features", metavar="FILE", help="steer the responses along the features of this feature set")
    group.add_argument("--alpha", type=float, help="strength of the steering (default: the calibrated one)")


def add_shape(group: argparse._ActionsContainer) -> None:
    """Add the options that shape responses besides the temperature, top-p and the length."""
    group.add_argument(
        "--top-k", type=int, default=0, help="sample only from this many most probable tokens; 0: from all (default: 0)"
    )
    group.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        help="drop tokens that are less probable than this share of the most probable one (default: 0)",
    )
    group.add_argument(
        "--stop", nargs="+", default=[], metavar="TEXT", help="texts that end a response; they are left out of it"
    )
    group.add_argument("--system", metavar="TEXT", help="system message for prompts without one")
    group.add_argument(
        "--chat-template-args",
        nargs="+",
        type=_setting,
        action=_Values,
        default={},
        metavar="NAME=VALUE",
        help="values for the chat template, such as enable_thinking=false",
    )


def answer_shape(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_shape`, by their names in `SamplingSettings`."""
    same = {name: getattr(args, name) for name in ("top_k", "min_p", "system", "chat_template_args")}
    return {**same, "stop": tuple(args.stop)}


class _Values(argparse.Action):
    """Stores pairs of names and values as a dictionary."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, dict(values))


def _setting(text: str) -> tuple[str, Any]:
    """A name and a value: JSON if it can be read so, else the text itself."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def check_engine(args: argparse.Namespace) -> None:
    """Refuse options that do not belong together, before anything is loaded. Raises: ValueError."""
    if args.endpoint:
        from ..sampling import Endpoint

        for name in ("adapter", "features", "vllm_args"):
            if getattr(args, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} cannot be used with --endpoint: start the server with it."
                )
        if args.engine != TRANSFORMERS:
            raise ValueError("--engine and --endpoint exclude each other: a server is an engine of its own.")
        Endpoint(args.endpoint, args.model, args.api_key_variable, args.concurrency).key()
    elif args.api_key_variable:
        raise ValueError("--api-key-variable needs --endpoint.")
    if args.engine != VLLM and (args.vllm_args or args.tensor_parallel_size != 1):
        raise ValueError("--vllm-args and --tensor-parallel-size need --engine vllm.")
    if args.alpha is not None and not args.features:
        raise ValueError("--alpha needs --features.")


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
        from ..metrics.messages import message_text
        from ..sampling import Endpoint, ServerEngine

        endpoint = Endpoint(args.endpoint, args.model, args.api_key_variable, args.concurrency)
        tags = (args.thinking_tags[0], args.thinking_tags[1])
        chat = args.chat is not False
        yield Opened(ServerEngine(endpoint, chat, partial(message_text, tags=tags)), None, chat)
    elif args.engine == VLLM:
        with _vllm(args) as opened:
            yield opened
    else:
        with _transformers(args) as opened:
            yield opened


@contextmanager
def _transformers(args: argparse.Namespace) -> Iterator[Opened]:
    from contextlib import nullcontext

    from ..sampling import TransformersEngine
    from ..steering import steer

    with launched_processes() as state:
        model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device, adapter=args.adapter)
        chat = uses_chat(args, tokenizer)
        share = {"process": state.process_index, "processes": state.num_processes}
        engine = TransformersEngine(model, tokenizer, args.batch_size, chat, **share)
        with steer(model, args.features, alpha=_alpha(args)) if args.features else nullcontext():
            yield Opened(engine, tokenizer, chat, **share)


@contextmanager
def _vllm(args: argparse.Namespace) -> Iterator[Opened]:
    from ..sampling.vllm import VllmEngine
    from ..steering.vllm_plugin import ALPHA, FEATURES

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--engine vllm starts its own processes: use --tensor-parallel-size, not accelerate launch.")
    steered = {ALPHA: _alpha(args)} if args.features else {}
    # vLLM's processes read the variable when they start.
    with _variables({FEATURES: args.features} if args.features else {}):
        engine = VllmEngine(
            args.model,
            adapter=args.adapter,
            dtype=args.dtype,
            chat=args.chat,
            tensor_parallel_size=args.tensor_parallel_size,
            extra_args=steered,
            options=args.vllm_args,
        )
        yield Opened(engine, engine.tokenizer, bool(engine.chat))


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
