"""`sae-posttrain sae`: describe an SAE, check whether it fits a model, list published SAEs, and train SAEs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..texts import load_texts, stream_texts
from .inputs import add_dtype, load_model

if TYPE_CHECKING:
    from ..inspection.fit import Fit
    from ..sae import SparseAutoencoder


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("sae", help="describe or check a sparse autoencoder, list published ones, train one")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    _add_info(kinds.add_parser("info", help="describe an SAE; with --check, measure how well it fits a model"))
    _add_list(kinds.add_parser("list", help="list the published SAEs that have a short name"))
    _add_train(kinds.add_parser("train", help="train TopK SAEs of a model's residual stream"))


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="folder, hub id, folder in a hub repository (owner/name/folder), or short name (`sae-posttrain sae list`)",
    )
    parser.add_argument(
        "--layers", type=int, nargs="+", help="0-based decoder blocks (default: the first block that has an SAE)"
    )
    parser.add_argument("--k", type=int, help="active features per token, if the SAE's files and name do not say")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check = parser.add_argument_group("check against a model")
    check.add_argument("--check", metavar="MODEL", help="folder or hub id of the model to check it on; needs --texts")
    check.add_argument("--texts", metavar="SOURCE", help="ordinary texts for the model to read; needs --check")
    check.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    check.add_argument("--limit", type=int, default=200, help="number of texts that are read (default: %(default)s)")
    check.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    check.add_argument(
        "--max-length", type=int, default=512, help="number of tokens of each text that are read (default: %(default)s)"
    )
    add_dtype(check)
    parser.set_defaults(run=run_info)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run_list)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    parser.add_argument(
        "--texts",
        required=True,
        metavar="SOURCE",
        help="file, folder or hub id of a dataset; it is streamed, so it may be larger than memory",
    )
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="0-based decoder blocks")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder to write the SAEs to; give it to other commands as --sae"
    )
    parser.add_argument(
        "--d-sae",
        type=int,
        help="number of features (default: 16 times the model's width, fewer if the texts are short)",
    )
    parser.add_argument(
        "--k", type=int, help="active features per token (default: an eighth of the model's width, between 8 and 50)"
    )
    parser.add_argument(
        "--tokens", type=int, default=20_000_000, help="largest number of tokens to read (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, help="rows per step (default: 32, fewer if the texts are too short for 250 steps)"
    )
    parser.add_argument(
        "--max-length", type=int, help="tokens per row (default: 256, or the model's context length if that is smaller)"
    )
    parser.add_argument("--lr", type=float, help="learning rate (default: sparsify's for the number of features)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the initial weights (default: %(default)s)")
    add_dtype(parser)
    parser.set_defaults(run=run_train)


def run_info(args: argparse.Namespace) -> int:
    if bool(args.check) != bool(args.texts):
        raise ValueError("--check and --texts are used together: give both, or neither.")
    from ..sae import load_sae
    from ..sae.formats import available_layers

    layers = args.layers or available_layers(args.source)[:1]
    if not layers:
        raise ValueError(f"{args.source} does not say which layer its SAE is for. Give the layer with --layers.")
    saes = {layer: load_sae(args.source, layer, k=args.k) for layer in layers}
    fits = _check(args, saes) if args.check else {}
    described = [{**_described(sae), **({"fit": asdict(fits[layer])} if fits else {})} for layer, sae in saes.items()]
    if args.json:
        print(json.dumps(described, indent=2))
    else:
        print("\n\n".join(_table(sae, fits.get(layer)) for layer, sae in saes.items()))
    complaints = [fit.complaint for fit in fits.values() if fit.complaint]
    for complaint in complaints:
        print(f"sae-posttrain: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _check(args: argparse.Namespace, saes: dict[int, SparseAutoencoder]) -> dict[int, Fit]:
    texts = load_texts(args.texts, column=args.column, limit=args.limit)

    import torch

    from ..discovery.sources import load_saes
    from ..inspection.fit import measure_fit

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model, tokenizer = load_model(args.check, dtype=args.dtype, device=device)
    load_saes(saes, list(saes), model)  # raises for a model of another width, warns about another model
    return measure_fit(model, tokenizer, saes, texts, batch_size=args.batch_size, max_length=args.max_length)


def _described(sae: SparseAutoencoder) -> dict[str, Any]:
    k = getattr(sae.activation, "k", None)
    return {
        **{"source": sae.source, "layer": sae.layer, "format": sae.format, "base_model": sae.base_model or None},
        **{"d_model": sae.d_model, "d_sae": sae.d_sae, "activation": str(sae.activation), "k": k},
        **{"dtype": str(sae.encoder.dtype).removeprefix("torch."), "input": _reads(sae)},
        **{"file": sae.file, "bytes": Path(sae.file).stat().st_size},
    }


def _reads(sae: SparseAutoencoder) -> str:
    """The residual that the encoder reads, with the steps that are applied to it first."""
    steps: list[str] = [sae.input_norm] if sae.input_norm != "none" else []
    steps += [f"times {sae.input_scale:.4g}"] if sae.input_scale != 1 else []
    steps += ["minus the decoder's bias"] if sae.subtract_decoder_bias else []
    return ", ".join(["the residual after the block", *steps])


def _table(sae: SparseAutoencoder, fit: Fit | None) -> str:
    described = _described(sae)
    lines = {
        "source": described["source"],
        "format": described["format"],
        "model": described["base_model"] or "unknown",
        "layer": sae.layer,
        "features": f"{sae.d_sae:,}, for residuals of width {sae.d_model:,}",
        "activation": described["activation"],
        "reads": described["input"],
        "file": f"{described['bytes'] / 2**20:,.1f} MiB, {described['dtype']}: {sae.file}",
    }
    if fit:
        own = fit.unexplained[fit.layer]
        beside = ", ".join(
            f"{share:.3f} at layer {block}" for block, share in fit.unexplained.items() if block != fit.layer
        )
        lines["unexplained"] = f"{own:.3f} of the variance" + (f" ({beside})" if beside else "")
        lines["active"] = f"{fit.active:.1f} features per token"
        lines["dead"] = f"{fit.dead:,} of {fit.d_sae:,} features never fired on {fit.tokens:,} tokens"
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_list(args: argparse.Namespace) -> int:
    from ..sae.catalogue import HOOK, RELEASES, span

    if args.json:
        keys = ("name", "repository", "base_model", "d_model", "d_sae", "k")
        rows = [{key: getattr(one, key) for key in keys} | {"layers": [*one.layers]} for one in RELEASES.values()]
        print(json.dumps([{**row, "hook": HOOK} for row in rows], indent=2))
        return 0
    header = ("name", "model", "layers", "features", "k", "repository")
    table = [header] + [
        (one.name, one.base_model, span(one.layers), f"{one.d_sae:,}", str(one.k or "varies"), one.repository)
        for one in RELEASES.values()
    ]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nAll of these SAEs read {HOOK}. The weights have licences of their own.")
    return 0


def run_train(args: argparse.Namespace) -> int:
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"--output {args.output} is a file; give a folder.")

    import torch

    from ..residual import decoder
    from ..sae.training import train_saes

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=device)
    settings = ("layers", "d_sae", "k", "tokens", "batch_size", "max_length", "lr", "seed")
    texts = stream_texts(args.texts, column=args.column)
    # Only the decoder: the head's logits are not needed, and this also works for multimodal models.
    folder = train_saes(
        decoder(model), tokenizer, texts, args.output, say=_say, **{one: getattr(args, one) for one in settings}
    )
    layers = " ".join(map(str, args.layers))
    print(
        f"Wrote {folder}\nNext, measure how well the SAEs fit, on texts that they were not trained on:\n"
        f"  sae-posttrain sae info {folder} --layers {layers} --check {args.model} --texts OTHER"
    )
    return 0
