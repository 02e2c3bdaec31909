"""`sae-posttrain discover`: find features with a model, its SAE and texts, and write a feature set."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artefacts import LOOP_SAMPLE
from ..languages import get_language
from ..texts import load_rows, load_texts
from . import classify
from .inputs import add_chat, add_dtype, add_loops, load_model, loop_settings, read_rows, uses_chat
from .output_files import check_file, replacing
from .wording import option


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("discover", help="find features for training and steering, or count tokens")
    kinds = parser.add_subparsers(required=True, metavar="kind")
    language = kinds.add_parser("language", help="find features that are active in one language only")
    language.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="CODE=SOURCE",
        help="texts per language, such as zh=zh.txt en=en.jsonl.gz ru=owner/dataset; about 100 each",
    )
    language.add_argument("--targets", nargs="+", help="languages to find features for (default: all)")
    by = "by the mean activation in the language minus that in the others"
    _add_common(language, select="monolinguality", by=by, per="language and layer", max_length=512)
    language.add_argument(
        "--max-elsewhere",
        type=float,
        metavar="SHARE",
        help="leave out features that fire on more than this share of the tokens of any other language, such as 0.02 "
        "(default: no limit)",
    )
    language.set_defaults(run=run_language)
    classify.add_discover_class(kinds)
    _add_tokens(
        kinds.add_parser("tokens", help="count the tokens of languages that share a script, for SASFT's token term")
    )
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
    _add_common(repetition, select="contrast", by=by, per="layer", max_length=2048, dense=True)
    _add_loops(repetition.add_argument_group("loops"))
    repetition.set_defaults(run=run_repetition)


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texts",
        nargs="+",
        required=True,
        metavar="CODE=SOURCE",
        help="texts per language, such as de=de.txt en=en.jsonl.gz; at least 1,000 paragraphs each",
    )
    parser.add_argument("--model", required=True, help="folder or hub id; only its tokenizer is read")
    parser.add_argument("--column", default="text", help="column of the texts (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=10000, help="rows read of each source (default: %(default)s)")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run_tokens)


def _add_common(
    parser: argparse.ArgumentParser, *, select: str, by: str, per: str, max_length: int, dense: bool = False
) -> None:
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
        + (
            ". dense: without an SAE, the mean residual in a loop's last period minus that in its first"
            if dense
            else ""
        )
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
    add_chat(group)
    add_loops(group, tokens=True)


def run_language(args: argparse.Namespace) -> int:
    check_file(args.output)
    texts = _texts_by_language(args)
    with _setting(args) as setting:
        from ..discovery import discover_language_features

        assert setting.saes is not None
        features = discover_language_features(
            setting.model,
            setting.tokenizer,
            setting.saes,
            texts,
            targets=args.targets,
            max_elsewhere=args.max_elsewhere,
            **setting.options,
        )
        setting.write(features, "Mean activation of each feature in each language:")
    return 0


def run_tokens(args: argparse.Namespace) -> int:
    check_file(args.output)
    texts = _texts_by_language(args)
    from transformers import AutoTokenizer

    from ..token_counts import count_tokens

    counts = count_tokens(AutoTokenizer.from_pretrained(args.model), texts)
    print("Number of tokens that belong to the row's language rather than the column's (weight of at least 0.5):\n")
    print(" " * 8 + "".join(f"{code:>10}" for code in counts.languages))
    for target in counts.languages:
        cells = (
            "" if target == other else str(int((counts.membership(target, other) >= 0.5).sum()))
            for other in counts.languages
        )
        print(f"{target:<8}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"\nWrote {counts.save(args.output)}")
    return 0


def _texts_by_language(args: argparse.Namespace) -> dict[str, Any]:
    """Language code → texts, of items such as zh=zh.txt."""
    texts = {}
    for item in args.texts:
        code, separator, source = item.partition("=")
        if not separator:
            raise ValueError(f"--texts {item!r}: expected CODE=SOURCE, such as zh=zh.txt.")
        with option(f"--texts {item!r}"):
            code = get_language(code).code
        if code in texts:
            raise ValueError(f"--texts names {code} twice; put its texts into one file.")
        texts[code] = load_texts(source, column=args.column, limit=args.limit)
    return texts


def run_repetition(args: argparse.Namespace) -> int:
    check_file(args.output)
    if bool(args.sae) == (args.select == "dense"):
        raise ValueError("--select dense takes no --sae." if args.sae else f"--select {args.select} needs --sae.")
    texts: Sequence[str | list[int]] = _looping_texts(args) if args.texts else []
    prompts = [row["prompt"] for row in read_rows(args.prompts, "prompt", args.limit)] if args.prompts else []
    loops = loop_settings(args, tokens=True)
    with _setting(args) as setting:
        from ..discovery import discover_repetition_features, sample_loops
        from ..sampling import SamplingSettings

        if prompts:
            sample = sample_loops(
                setting.model,
                setting.tokenizer,
                prompts,
                loops=args.loops,
                sampling=SamplingSettings(args.temperature, 1.0, args.max_new_tokens, seed=args.seed),
                chat=uses_chat(args, setting.tokenizer),
                batch_size=args.batch_size,
                loop_settings=loops,
            )
            texts = sample.texts
            setting.print(f"Found {sample}; the file has {len(prompts)} prompts.")
            kept = setting.keep_loops(texts, len(sample.looped))
            setting.print(f"Wrote them to {kept}. Give --texts {kept} to discover again without sampling.\n")
        features = discover_repetition_features(
            setting.model, setting.tokenizer, setting.saes, texts, loop_settings=loops, **setting.options
        )
        setting.write(features, "Mean activation of each feature, by place in a loop and in ordinary text:")
    return 0


def _looping_texts(args: argparse.Namespace) -> Sequence[str | list[int]]:
    """The token ids of a .loops.jsonl file, so that the model reads the exact tokens it sampled; else texts."""
    rows = load_rows(args.texts) if args.texts.endswith(LOOP_SAMPLE) else []
    if rows and all(isinstance(row.get("ids"), list) for row in rows):
        return [row["ids"] for row in rows[: args.limit]]
    return load_texts(args.texts, column=args.column, limit=args.limit)


@dataclass
class _Setting:
    """The model, SAEs and options of one discovery run, on this process."""

    state: Any
    model: Any
    tokenizer: Any
    saes: dict[int, Any] | None
    options: dict[str, Any]
    output: str

    def print(self, text: str) -> None:
        if self.state.is_main_process:
            print(text)

    def keep_loops(self, texts: Sequence[list[int]], looped: int) -> Path:
        """Write texts with their token ids beside the features; the first `looped` of them end in a loop."""
        path = Path(self.output).with_suffix(LOOP_SAMPLE)
        if self.state.is_main_process:
            with replacing(path) as file:
                for place, ids in enumerate(texts):
                    row = {"text": self.tokenizer.decode(ids), "looped": place < looped, "ids": ids}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return path

    def write(self, features: Any, title: str) -> None:
        if self.state.is_main_process:
            path = features.save(self.output)
            print(f"{title}\n\n{features.summary()}\n\nWrote {path}")


@contextmanager
def _setting(args: argparse.Namespace) -> Iterator[_Setting]:
    from accelerate import Accelerator

    from ..sae import load_sae

    # Accelerator instead of PartialState, because only Accelerator respects `accelerate launch --cpu`.
    state = Accelerator()
    if not state.is_main_process:
        logging.disable(logging.WARNING)
    saes = None if args.select == "dense" else {layer: load_sae(args.sae, layer, k=args.k) for layer in args.layers}
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device)
    shared = ("layers", "top", "select", "seed", "batch_size", "max_length")
    options = {name: getattr(args, name) for name in shared}
    yield _Setting(state, model, tokenizer, saes, options, args.output)
    state.wait_for_everyone()  # the process group must be idle when it is destroyed; see cli/trainer_runs.py
    state.end_training()
