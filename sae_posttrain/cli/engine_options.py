"""Options for what samples responses, and for the shape of the responses."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..sampling import Endpoint

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
OF_SERVERS: dict[str, Any] = {
    "api_key_variable": None,
    "served_model": None,
    "concurrency": 32,
    "timeout": 3600.0,
    "retries": 20,
}
"""Options that need --endpoint, with their defaults, which are those of `Endpoint`."""


def add_engine(group: argparse._ArgumentGroup) -> None:
    """Add the options that choose an engine: transformers, vLLM, or a server."""
    group.add_argument(
        "--engine",
        choices=(TRANSFORMERS, VLLM),
        default=TRANSFORMERS,
        help="library that samples the responses in this process (default: %(default)s)",
    )
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="instead, sample from a running server with OpenAI's protocol, such as http://localhost:8000/v1",
    )
    group.add_argument(
        "--served-model", metavar="NAME", help="the model's name at --endpoint (default: the same as --model)"
    )
    group.add_argument(
        "--api-key-variable",
        metavar="NAME",
        help="environment variable that holds the key for --endpoint (default: no key is sent)",
    )
    add_requests(group)
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


def add_requests(group: argparse._ArgumentGroup) -> None:
    """Add the options for requests to a server: how many at once, and how long and how often each is tried."""
    group.add_argument(
        "--concurrency",
        type=int,
        default=OF_SERVERS["concurrency"],
        help="requests to --endpoint at once (default: %(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=OF_SERVERS["timeout"],
        metavar="SECONDS",
        help="time that --endpoint may take for one response (default: %(default)g)",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=OF_SERVERS["retries"],
        help="how often a request to --endpoint is repeated after a lost connection, a timeout, or a status of 408, "
        "409, 429, or 500 and above (default: %(default)s, which take about two minutes)",
    )


def add_steering(group: argparse._ArgumentGroup) -> None:
    """Add the options that steer all responses."""
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


def check_engine(args: argparse.Namespace, of_the_server: Sequence[str] = ("adapter", "features", "vllm_args")) -> None:
    """Refuse options that do not belong together, before anything is loaded.

    Args:
        args: the options.
        of_the_server: options that a server gets when it is started, and that --endpoint therefore excludes.

    Raises:
        ValueError: the message names the option.
    """
    if args.endpoint is not None:
        for name in of_the_server:
            if getattr(args, name, None):
                raise ValueError(f"{_option(name)} cannot be used with --endpoint: start the server with it.")
        if args.engine != TRANSFORMERS:
            raise ValueError("--engine and --endpoint exclude each other: a server is an engine of its own.")
        endpoint_of(args).key()
    else:
        for name, default in OF_SERVERS.items():
            if getattr(args, name) != default:
                raise ValueError(f"{_option(name)} needs --endpoint.")
    if args.engine != VLLM and (args.vllm_args or args.tensor_parallel_size != 1):
        raise ValueError("--vllm-args and --tensor-parallel-size need --engine vllm.")
    if getattr(args, "alpha", None) is not None and not args.features:
        raise ValueError("--alpha needs --features.")


def endpoint_of(args: argparse.Namespace) -> Endpoint:
    """The server of --endpoint. Raises: ValueError: an option is out of range."""
    from ..sampling import Endpoint

    name = args.served_model or args.model
    return Endpoint(args.endpoint, name, args.api_key_variable, args.concurrency, args.retries, args.timeout)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
