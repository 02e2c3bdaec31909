"""What the kinds of `sae-posttrain discover` share: their options, and a run with its model and SAEs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..artefacts import LOOP_SAMPLE
from .inputs import add_dtype, load_model, load_tokenizer
from .output_files import replacing
from .processes import launched_processes, shares_work


def add_discovery_options(
    parser: argparse.ArgumentParser, *, select: str, by: str, per: str, max_length: int, dense: str = ""
) -> None:
    """Add the options of every kind of discovery.

    Args:
        parser: of the command.
        select: name of the usual way to choose features.
        by: what the usual way ranks them by.
        per: of what `--top` is the number of features.
        max_length: default of `--max-length`.
        dense: what `--select dense` takes, for a command that offers it.
    """
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    without = "; not for --select dense" if dense else ""
    parser.add_argument(
        "--sae",
        required=not dense,
        help=f"folder, hub id or short name (`sae-posttrain sae list`) of the SAEs{without}",
    )
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1000, help="rows read of each source (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="0-based decoder blocks")
    parser.add_argument("--top", type=int, default=2, help=f"features per {per} (default: %(default)s)")
    parser.add_argument(
        "--select",
        choices=(select, "random", *(["dense"] if dense else [])),
        default=select,
        help=f"how features are chosen. {select}: {by}. random: a control, drawn among the features that fire at all"
        + (f". dense: without an SAE, {dense}" if dense else "")
        + " (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    parser.add_argument(
        "--max-length", type=int, default=max_length, help=f"tokens read of each text (default: {max_length})"
    )
    add_dtype(parser)
    parser.add_argument("--k", type=int, help="active features per token, if the SAE's files and name do not say")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    shares_work(parser)


@dataclass
class DiscoveryRun:
    """The SAEs, options and model of one discovery run, on this process."""

    state: Any
    saes: dict[int, Any] | None
    options: dict[str, Any]
    args: argparse.Namespace

    @cached_property
    def model(self) -> Any:
        """The model, loaded when it is first needed: vLLM samples before, and needs the memory."""
        return load_model(self.args.model, dtype=self.args.dtype, device=self.state.device)[0]

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.args.model)

    def print(self, text: str) -> None:
        if self.state.is_main_process:
            print(text)

    def keep_loops(self, texts: Sequence[list[int]], looped: int) -> Path:
        """Write texts with their token ids beside the features; the first `looped` of them end in a loop."""
        path = Path(self.args.output).with_suffix(LOOP_SAMPLE)
        if self.state.is_main_process:
            with replacing(path) as file:
                for place, ids in enumerate(texts):
                    row = {"text": self.tokenizer.decode(ids), "looped": place < looped, "ids": ids}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return path

    def write(self, features: Any, title: str) -> None:
        if self.state.is_main_process:
            path = features.save(self.args.output)
            print(f"{title}\n\n{features.summary()}\n\nWrote {path}")


@contextmanager
def discovery_run(args: argparse.Namespace) -> Iterator[DiscoveryRun]:
    """Load what the options name, on every process of `accelerate launch`."""
    from ..sae import load_sae

    shared = ("layers", "top", "select", "seed", "batch_size", "max_length")
    options = {name: getattr(args, name) for name in shared}
    with launched_processes() as state:
        dense = args.select == "dense"
        saes = None if dense else {layer: load_sae(args.sae, layer, k=args.k) for layer in args.layers}
        yield DiscoveryRun(state, saes, options, args)
