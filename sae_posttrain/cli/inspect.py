"""`sae-posttrain inspect`: examine the features of a set; the report shows the results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..languages import get_language
from ..texts import load_texts
from . import model_diff
from .inputs import add_chat, add_dtype, load_model, named, read_rows, uses_chat
from .processes import launched_processes, shares_work
from .wording import option


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "inspect", help="find where features fire, and what they do around a switch of language"
    )
    kinds = parser.add_subparsers(required=True, metavar="kind")
    contexts = kinds.add_parser("contexts", help="find the passages of texts in which each feature is most active")
    contexts.add_argument("--model", required=True, help="folder or hub id of the model")
    contexts.add_argument(
        "--texts",
        nargs="+",
        metavar="NAME=SOURCE",
        required=True,
        help="texts by group, such as zh=zh.txt en=en.jsonl",
    )
    contexts.add_argument("--column", default="text", help="column of the texts (default: text)")
    contexts.add_argument("--limit", type=int, default=1000, help="rows read of each source (default: 1000)")
    contexts.add_argument("--top", type=int, default=5, help="passages for each feature (default: 5)")
    contexts.add_argument("--around", type=int, default=12, help="tokens shown on each side (default: 12)")
    contexts.add_argument("--max-length", type=int, default=512, help="tokens read of each text (default: 512)")
    _add_common(contexts)
    contexts.set_defaults(run=run_contexts)
    _add_switches(kinds)
    diff = kinds.add_parser("diff", help=model_diff.HELP)
    model_diff.add_options(diff)
    _add_output(diff)
    diff.set_defaults(run=run_diff)
    shares_work(diff)


def _add_switches(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    switches = kinds.add_parser(
        "switches", help="measure pre-activations around a language switch, in one or several models"
    )
    switches.add_argument(
        "--models",
        nargs="+",
        required=True,
        help="folders or hub ids of models that read the same answers, such as before and after training",
    )
    switches.add_argument(
        "--responses",
        metavar="FILE",
        required=True,
        help="file whose rows have a response and its language, sampled before training",
    )
    switches.add_argument(
        "--target", metavar="CODE", help="language that is switched to (default: the only one of the features)"
    )
    switches.add_argument("--switches", type=int, default=500, help="maximum number of switches to use (default: 500)")
    switches.add_argument(
        "--before", type=int, default=10, help="number of tokens before the foreign word (default: 10)"
    )
    switches.add_argument(
        "--after", type=int, default=5, help="number of tokens after the foreign word's first token (default: 5)"
    )
    _add_common(switches)
    add_chat(switches)
    switches.set_defaults(run=run_switches)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", required=True, help="the feature set: file, folder or hub id")
    parser.add_argument("--batch-size", type=int, default=8, help="texts per forward pass (default: 8)")
    add_dtype(parser)
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the .json file to write; put it into the run's folder, so that `sae-posttrain report` shows it",
    )


def run_contexts(args: argparse.Namespace) -> int:
    _check_output(args.output)
    sources = named(args.texts)
    texts = {name: load_texts(source, column=args.column, limit=args.limit) for name, source in sources.items()}

    from accelerate import PartialState

    from ..feature_set import FeatureSet
    from ..inspection.contexts import contexts_to_json, top_contexts

    features = FeatureSet.load(args.features)
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device)
    settings = {name: getattr(args, name) for name in ("top", "around", "batch_size", "max_length")}
    _write(args.output, contexts_to_json(top_contexts(model, tokenizer, features, texts, **settings)))
    return 0


def run_switches(args: argparse.Namespace) -> int:
    _check_output(args.output)
    rows = read_rows(args.responses, "response", None)
    for number, row in enumerate(rows, start=1):
        if not row.get("language"):
            raise ValueError(f"{args.responses}, row {number}: there is no 'language'. Add this column.")
        get_language(row["language"])

    from accelerate import PartialState

    from ..feature_set import FeatureSet
    from ..inspection.trace import SwitchPassage, SwitchTrace, find_passages, trace_switches, traces_to_json

    features = FeatureSet.load(args.features)
    target = _target(args.target, features.targets)
    traces: list[SwitchTrace] = []
    passages: list[SwitchPassage] = []
    for name in args.models:
        model, tokenizer = load_model(name, dtype=args.dtype, device=PartialState().device)
        if not passages:  # once, so that every model reads the same tokens
            chat = uses_chat(args, tokenizer)
            passages = find_passages(tokenizer, rows, target, limit=args.switches, chat=chat)
        settings = {"before": args.before, "after": args.after, "batch_size": args.batch_size}
        traces.append(trace_switches(model, features, passages, target, name=Path(name).name, **settings))
    _write(args.output, traces_to_json(traces))
    return 0


def run_diff(args: argparse.Namespace) -> int:
    _check_output(args.output)
    with launched_processes() as state:
        written = model_diff.compare(args, state)
        if state.is_main_process:
            _write(args.output, written)
    return 0


def _target(given: str | None, targets: tuple[str, ...]) -> str:
    if given:
        with option("--target"):
            return get_language(given).code
    if len(targets) != 1:
        raise ValueError(f"The features stand for {', '.join(targets)}. Choose one of them with --target.")
    return targets[0]


def _check_output(path: Path) -> None:
    # Checked before the model runs, which may take an hour. The report recognises these files by their JSON content.
    if path.is_dir() or path.suffix != ".json":
        raise ValueError(f"--output {path}: give the file to write, ending in .json.")


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    print(f"Wrote {path}")
