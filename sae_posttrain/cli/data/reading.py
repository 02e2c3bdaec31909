"""What the kinds of `data` share: the options for reading texts, the firing sets, and the processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...texts import stream_texts
from ..inputs import add_dtype, at_least, load_model
from ..output_files import replacing
from ..processes import shares_work

if TYPE_CHECKING:
    import torch

    from ...discovery.firing import FiringSets
    from ...discovery.firing_cache import At


def add_sets(parser: argparse.ArgumentParser, what: str) -> None:
    """Add several named sources of texts, `--json`, `--output`, and the options of `add_reading`."""
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", metavar="FILE", help=".json file to write, in a folder that `report` is given")
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser, *, column: str = "text") -> None:
    """Add the options that say which model, SAE and layer read the texts, and how; `column` is a default."""
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    parser.add_argument(
        "--sae", required=True, help="folder, hub id or short name (`sae-posttrain sae list`) of the SAEs"
    )
    parser.add_argument("--layer", type=int, required=True, help="0-based decoder block")
    parser.add_argument("--column", default=column, help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=at_least(1), help="rows to read of each source (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: %(default)s)")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        help="folder that stores which features fire; a second run with it does not run the model again",
    )
    add_dtype(parser)
    shares_work(parser)


def collect(
    args: argparse.Namespace,
    device: torch.device,
    sources: Mapping[str, str],
    at: At,
    columns: Mapping[str, str] | None = None,
) -> dict[str, FiringSets]:
    """The firing sets of each source, read with the options of `add_reading`.

    Args:
        args: of the command.
        device: where the model runs.
        sources: name → file.
        at: which tokens count.
        columns: name → column of the texts, where it is another than --column.

    Raises:
        ValueError: a column for a source that does not exist, or a name that cannot be that of a folder.
    """
    columns = columns or {}
    if args.cache and (unusable := [name for name in sources if {"/", "\\"} & set(name) or name in (".", "..")]):
        raise ValueError(f"--cache has a folder for each data set, which cannot be named {unusable[0]!r}.")
    if unknown := columns.keys() - sources.keys():
        raise ValueError(f"No data set is named {min(unknown)!r}; there are {', '.join(sources)}.")

    from ...discovery.firing import collect_firing

    model, tokenizer = load_model(args.model, dtype=args.dtype, device=device)
    return {
        name: collect_firing(
            model,
            tokenizer,
            args.sae,
            islice(stream_texts(source, column=columns.get(name, args.column)), args.limit),
            layers=[args.layer],
            at=at,
            cache=Path(args.cache) / name if args.cache else None,
            batch_size=args.batch_size,
            max_length=args.max_length,
        )[args.layer]
        for name, source in sources.items()
    }


def check_fires(sets: Mapping[str, FiringSets], at: str) -> Mapping[str, FiringSets]:
    """The sets, if there is anything to compare. Raises: ValueError: no feature fires on any text of one of them."""
    for name, one in sets.items():
        if not len(one.features):
            where = "the last token of any" if at == "last" else "any"
            raise ValueError(
                f"{name}: no feature fires on {where} of its {len(one)} texts. The first token of a text does not "
                "count. If the texts have more than one token, the SAE does not belong to the model or the layer."
            )
    return sets


def write_values(output: Path, key: str, values: list[Any]) -> None:
    """Write one of the JSON files that the report knows by their key."""
    with replacing(output) as file:
        file.write(json.dumps({key: values}) + "\n")
