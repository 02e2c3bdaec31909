"""`sae-posttrain inspect diff`: which features change between two checkpoints of a model."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artefacts import MODEL_DIFFS
from ..texts import load_texts
from .inputs import add_dtype, load_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..inspection.contexts import FeatureContexts
    from ..inspection.diff import ChangedFeature, ModelDiff
    from ..sae import SparseAutoencoder

HELP = "rank the features that change between two checkpoints of a model"
BY = {"activation": "mean activation", "firing": "share of tokens", "pre_activation": "mean pre-activation"}
COMPARED_TEXTS = 20
"""Texts on which the tokenizers of the two models are compared."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="model before: folder or hub id; a folder of a LoRA adapter works")
    parser.add_argument("tuned", metavar="TUNED", help="model after")
    parser.add_argument(
        "--sae", required=True, help="folder, hub id or short name (`sae-posttrain sae list`) of the SAEs"
    )
    parser.add_argument("--layers", type=int, nargs="+", required=True, metavar="N", help="0-based decoder blocks")
    parser.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="[NAME=]FILE",
        help="texts that both models read, such as en=en.jsonl zh=zh.jsonl; changes are also printed for each name",
    )
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, help="rows read of each file (default: %(default)s)")
    parser.add_argument(
        "--noise",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="models that differ from BASE by training noise alone, such as the same run with another seed. Without "
        "them, the result does not show which changes are noise",
    )
    parser.add_argument(
        "--by",
        choices=tuple(BY),
        default="activation",
        help="what the ranking compares: mean activation, share of tokens on which the feature fires, or mean "
        "pre-activation (default: %(default)s)",
    )
    parser.add_argument("--features", metavar="FILE", help="feature set whose features are followed in the ranking")
    parser.add_argument("--top", type=int, default=20, help="features to list (default: %(default)s)")
    parser.add_argument(
        "--passages", type=int, default=3, help="passages to show for each listed feature; 0: none (default: 3)"
    )
    parser.add_argument("--around", type=int, default=10, help="tokens shown on each side (default: %(default)s)")
    parser.add_argument(
        "--permutations", type=int, default=1000, help="random exchanges for the p-values (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the permutations (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: %(default)s)")
    add_dtype(parser)


def compare(args: argparse.Namespace, state: Any) -> dict[str, Any]:
    """Read all models, one after the other, and print the ranking; returns it as plain values.

    Args:
        args: of the command.
        state: the processes, which share the reading. The main one prints.
    """
    _check_models(args)
    texts = texts_by_name(args.texts, column=args.column, limit=args.limit)
    if args.top < 1 or args.passages < 0:
        raise ValueError(f"--top {args.top}, --passages {args.passages}: expected at least 1 and 0.")

    from ..discovery.copies import warn_of_copies
    from ..discovery.sources import load_saes
    from ..feature_set import FeatureSet
    from ..inspection.diff import diff_readings
    from ..inspection.diff_record import diff_to_json
    from ..inspection.feature_readings import read_model_features

    features = FeatureSet.load(args.features) if args.features else None
    reading = {"batch_size": args.batch_size, "max_length": args.max_length}
    names = _short_names([args.base, args.tuned, *args.noise])
    warn_of_copies(text for members in texts.values() for text in members)
    readings, saes, first, shape = [], {}, None, None
    for source, name in zip([args.base, args.tuned, *args.noise], names, strict=True):
        model, tokenizer = load_model(source, dtype=args.dtype, device=state.device)
        if first is None:
            first, shape, saes = tokenizer, _shape(model), load_saes(args.sae, args.layers, model)
        if _shape(model) != shape:
            raise ValueError(
                f"{source} has {_shape(model)}, and {args.base} has {shape}: give checkpoints of one model."
            )
        _check_tokens(first, tokenizer, texts, args.base, source)
        readings.append(read_model_features(model, first, saes, texts, name=name, **reading))
        del model
        gc.collect()
    base, tuned, *noise = readings
    found = diff_readings(base, tuned, noise=noise, by=args.by, permutations=args.permutations, seed=args.seed)
    contexts = _passages(args, saes, first, texts, found.ranking(args.top), state) if args.passages else []
    written = diff_to_json(found, top=args.top, contexts=contexts, features=features)
    if state.is_main_process:
        _print(written[MODEL_DIFFS][0], found)
    return written


def _check_models(args: argparse.Namespace) -> None:
    """Check that no model is compared with itself, which shows neither a change nor noise."""
    given = [("BASE", args.base), ("TUNED", args.tuned), *(("--noise", source) for source in args.noise)]
    for place, (name, source) in enumerate(given):
        for other, earlier in given[:place]:
            if Path(source).resolve() == Path(earlier).resolve():
                raise ValueError(f"{name} and {other} are the same model, {source}. Give each model once.")


def _shape(model: nn.Module) -> str:
    from ..residual import text_config

    config = text_config(model)
    return f"{config.num_hidden_layers} blocks of width {config.hidden_size}"


def texts_by_name(items: Sequence[str], *, column: str, limit: int) -> dict[str, list[str]]:
    """The texts of each item NAME=FILE, or FILE, whose name is then the file's."""
    texts: dict[str, list[str]] = {}
    for item in items:
        name, separator, source = item.partition("=")
        if not separator:
            name, source = Path(item).name.split(".")[0], item
        if not name or name in texts:
            raise ValueError(f"--texts {item!r}: expected NAME=FILE or FILE, each name once, such as zh=zh.jsonl.")
        texts[name] = load_texts(source, column=column, limit=limit)
    return texts


def _short_names(sources: Sequence[str]) -> list[str]:
    """The last part of each path or hub id; the whole where two would be alike."""
    short = [Path(source).name for source in sources]
    return [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]


def _check_tokens(
    first: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    texts: Mapping[str, Sequence[str]],
    base: str,
    source: str,
) -> None:
    for members in texts.values():
        some = list(members[:COMPARED_TEXTS])
        if other is not first and other(some)["input_ids"] != first(some)["input_ids"]:
            raise ValueError(
                f"{source} and {base} cut the texts into different tokens, so that their features cannot be compared "
                f"token by token. If {source} is a folder without a tokenizer, copy that of {base} into it."
            )


def _passages(
    args: argparse.Namespace,
    saes: Mapping[int, SparseAutoencoder],
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Sequence[str]],
    ranked: Sequence[ChangedFeature],
    state: Any,
) -> list[FeatureContexts]:
    """Passages of the ranked features, read in whichever model the feature is more active."""
    from ..inspection.contexts import top_activations

    found: list[FeatureContexts] = []
    for source, rising in ((args.base, False), (args.tuned, True)):
        wanted: dict[int, list[int]] = {}
        for one in ranked:
            if (one.score > 0) == rising:
                wanted.setdefault(one.layer, []).append(one.feature)
        if wanted:
            model, _ = load_model(source, dtype=args.dtype, device=state.device)
            shown = {"top": args.passages, "around": args.around}
            reading = {"batch_size": args.batch_size, "max_length": args.max_length}
            found += top_activations(model, tokenizer, saes, wanted, texts, **shown, **reading)
            del model
            gc.collect()
    return found


def _print(written: Mapping[str, Any], found: ModelDiff) -> None:
    print(
        f"{written['base']} → {written['tuned']}: {written['tokens']} tokens in {written['units']} units of texts, "
        f"ranked by {BY[found.by]}."
    )
    for one in written["layers"]:
        noise = one["beyond_noise"]
        print(
            f"layer {one['layer']}: {one['changed']} features change, {one['beyond_texts']} of them more than other "
            f"texts explain (p ≤ {written['level']:g})"
            + ("." if noise is None else f", {noise} more than any feature does in the noise models.")
        )
    if written["noise_score"] is None:
        print("Without --noise, changes that another seed of the same training would make too are not told apart.")
    print(f"{'rank':>5} layer feature   score {'base':>9} {'tuned':>9}  95% interval of the change      p  noise  set")
    for row in written["features"]:
        _print_row(row, found.by)
    if written["followed"]:
        print("Features of the set, by rank:")
        for row in sorted(written["followed"], key=lambda row: row["rank"] or found.tokens):
            _print_row(row, found.by)


def _print_row(row: Mapping[str, Any], by: str) -> None:
    before, after = row["means"][by]
    noise = "" if row["false_share"] is None else f"{row['false_share']:.2f}"
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    print(
        f"{row['rank'] or '–':>5} {row['layer']:5} {row['feature']:7} {row['score']:+7.1f} {before:9.4f} {after:9.4f}  "
        f"{interval:<26} {row['p_value']:6.3f} {noise:>6}  {row['target'] or ''}".rstrip()
    )
