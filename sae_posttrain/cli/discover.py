"""`sae-posttrain discover`: from a model, its SAE and texts to a feature set."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..languages import get_language
from ..texts import load_texts


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("discover", help="find features and write a feature set")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    language = kinds.add_parser("language", help="features that stand for one language and no other")
    language.add_argument("--model", required=True, help="folder or hub id")
    language.add_argument("--sae", required=True, help="folder or hub id of the sparse autoencoders")
    language.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="CODE=SOURCE",
        help="texts per language, such as zh=zh.txt en=en.jsonl.gz ru=owner/dataset; about 100 each",
    )
    language.add_argument("--column", default="text", help="column of the texts (default: text)")
    language.add_argument("--limit", type=int, default=1000, help="texts read per language (default: 1000)")
    language.add_argument("--layers", type=int, nargs="+", required=True, help="0-based decoder blocks")
    language.add_argument("--top", type=int, default=2, help="features per language and layer (default: 2)")
    language.add_argument("--targets", nargs="+", help="languages to find features for (default: all)")
    language.add_argument(
        "--select",
        choices=("monolinguality", "random"),
        default="monolinguality",
        help="random: draw features that fire at all, as a control",
    )
    language.add_argument("--seed", type=int, default=0, help="of the random choice")
    language.add_argument("--batch-size", type=int, default=8, help="texts per forward (default: 8)")
    language.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: 512)")
    language.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="of the model (default: auto)",
    )
    language.add_argument("--k", type=int, help="active features per token, when the SAE's name does not say")
    language.add_argument("--output", required=True, help="the .safetensors file to write")
    language.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if Path(args.output).is_dir():
        raise ValueError(f"--output {args.output} is a folder; name the file to write, ending in .safetensors.")
    texts = {}
    for item in args.texts:
        code, separator, source = item.partition("=")
        if not separator:
            raise ValueError(f"--texts {item!r}: expected CODE=SOURCE, such as zh=zh.txt.")
        code = get_language(code).code
        if code in texts:
            raise ValueError(f"--texts names {code} twice; put its texts into one file.")
        texts[code] = load_texts(source, column=args.column, limit=args.limit)

    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..discovery import discover_language_features
    from ..sae import load_sae

    # The accelerator, not PartialState: only it hears `accelerate launch --cpu`.
    state = Accelerator()
    if not state.is_main_process:
        logging.disable(logging.WARNING)
    saes = {layer: load_sae(args.sae, layer, k=args.k) for layer in args.layers}
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).to(state.device)
    features = discover_language_features(
        model,
        AutoTokenizer.from_pretrained(args.model),
        saes,
        texts,
        layers=args.layers,
        top=args.top,
        targets=args.targets,
        select=args.select,
        seed=args.seed,
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    if state.is_main_process:
        path = features.save(args.output)
        print("Mean activation of each feature in each language:\n")
        print(features.summary())
        print(f"\nWrote {path}")
    state.wait_for_everyone()  # see cli/sft.py: the group must be idle when it goes
    state.end_training()
    return 0
