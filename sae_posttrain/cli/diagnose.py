"""`sae-posttrain diagnose`: find the features behind a fault, and test whether they cause it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artefacts import LOOP, UNEXPECTED
from ..languages import get_language
from ..texts import Row
from .inputs import add_chat, add_dtype, add_loops, load_model, loop_settings, read_rows, uses_chat
from .output_files import check_file, remove_older, replacing

if TYPE_CHECKING:
    from ..inspection.diagnose_cases import Case, Fault
    from ..inspection.diagnose_features import Diagnosis

NOT_PROVED = 1
"""Exit code when the proof shows no cause. Features that are a mere hint are written all the same."""
LONGEST_ANSWER = 512


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "diagnose", help="find the features behind a bad answer, and test whether they cause it"
    )
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--sae", required=True, help="folder, hub id or short name (see `sae list`) of the SAEs")
    parser.add_argument("--layers", type=int, nargs="+", help="0-based decoder blocks (default: all that have an SAE)")
    parser.add_argument("--k", type=int, help="active features per token, if the SAE's files and name do not say")
    _add_cases(parser.add_argument_group("the bad answers"))
    rank = parser.add_argument_group("ranking")
    rank.add_argument("--top", type=int, default=3, help="suspected features per layer (default: %(default)s)")
    rank.add_argument(
        "--suspects",
        metavar="FILE",
        help="feature set of the same SAE: its features are tested instead of the highest-ranked ones, on its layers",
    )
    rank.add_argument(
        "--where",
        choices=("stretch", "before"),
        default="stretch",
        help="tokens to rank on. stretch: all faulty tokens and the one before; before: only the one before "
        "(default: %(default)s)",
    )
    rank.add_argument("--batch-size", type=int, default=8, help="cases per forward pass (default: %(default)s)")
    rank.add_argument("--max-length", type=int, default=1024, help="tokens read of each case (default: %(default)s)")
    _add_proof(parser.add_argument_group("proof"))
    add_dtype(parser)
    add_chat(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the .json file to write, for `report`; the features that passed the proof are written beside it, as "
        ".safetensors",
    )
    parser.set_defaults(run=run)


def _add_cases(cases: argparse._ArgumentGroup) -> None:
    cases.add_argument("--prompt", help="one prompt")
    cases.add_argument("--response", help="the bad answer to it")
    cases.add_argument(
        "--language",
        metavar="CODE",
        help="language that the response should be in; with --cases, of the rows that have no column language",
    )
    cases.add_argument(
        "--cases",
        metavar="FILE",
        help="instead of --prompt and --response: rows with prompt and response, such as `measure --output` writes "
        "them. Rows without the fault are the good ones, unless --against is given",
    )
    cases.add_argument("--against", metavar="FILE", help="rows with good prompts and responses")
    cases.add_argument(
        "--fault",
        choices=("auto", "loop", "switch"),
        default="auto",
        help="what is wrong: an endless loop, or a switch of language (default: as the rows were measured, else what "
        "is found)",
    )
    cases.add_argument("--fault-text", metavar="TEXT", help="instead of --fault: words that should not be in an answer")
    cases.add_argument("--to", metavar="CODE", help="only switches into this language count")
    cases.add_argument("--name", help="what the features stand for (default: repetition, --to, or fault)")
    add_loops(cases, tokens=False)


def _add_proof(proof: argparse._ArgumentGroup) -> None:
    proof.add_argument("--no-proof", action="store_true", help="only rank; all suspects are written")
    proof.add_argument(
        "--prove-by",
        choices=("auto", "answers", "probability"),
        default="auto",
        help="answers: sample new answers, and count the faults. probability: compute the probability of the first "
        "faulty token, without sampling; for rare faults (default: probability for switches of language, else answers)",
    )
    proof.add_argument(
        "--test",
        nargs="+",
        choices=("each", "layer", "all"),
        default=["each", "layer", "all"],
        help="which tests are made: each feature by itself, the features of each layer together, all features together "
        "(default: all three)",
    )
    proof.add_argument("--strength", type=float, default=1.0, help="share of each feature to remove (default: 1)")
    proof.add_argument("--alpha", type=float, default=4.0, help="typical strengths to amplify by (default: 4)")
    proof.add_argument(
        "--controls",
        type=int,
        help="draws of random directions of equal norm for each test (default: 3 by answers, 20 by probability)",
    )
    proof.add_argument(
        "--limit",
        type=int,
        default=32,
        help="largest number of bad cases, and of good ones, to test (default: %(default)s)",
    )
    proof.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="temperature (default: 0, which is greedy, by answers; 1 by probability)",
    )
    proof.add_argument("--top-p", type=float, default=1.0, help="top-p (default: 1)")
    proof.add_argument("--samples", type=int, default=1, help="answers to each prompt, if sampled (default: 1)")
    proof.add_argument(
        "--max-new-tokens",
        type=int,
        help=f"token limit of an answer (default: as many as the longest bad answer has, at most {LONGEST_ANSWER})",
    )
    proof.add_argument("--answers-at-once", type=int, default=64, help="answers sampled at once (default: 64)")
    proof.add_argument("--seed", type=int, default=0, help="random seed of the sampling (default: 0)")


def run(args: argparse.Namespace) -> int:
    path = check_file(args.output)
    if path.suffix != ".json":
        raise ValueError(f"--output {path}: name the file to write, ending in .json.")
    rows, against = _rows(args)
    fault = _fault(args, rows)

    from accelerate import PartialState

    from ..feature_set import FeatureSet
    from ..inspection.diagnose_cases import split_cases
    from ..inspection.diagnose_features import diagnose
    from ..sae import load_sae
    from ..sae.formats import available_layers

    bad, good = split_cases(rows, fault)
    if against:
        faulty, good = split_cases(against, fault)
        if faulty:
            print(f"{args.against}: {len(faulty)} of {len(against)} answers have the fault too, and are left out.")
    if not bad:
        raise ValueError(f"None of {len(rows)} answers has the fault. Say what is wrong with --fault-text.")
    layers = args.layers or available_layers(args.sae)
    if args.suspects:
        layers = [layer.layer for layer in FeatureSet.load(args.suspects).layers]
    saes = {layer: load_sae(args.sae, layer, k=args.k) for layer in layers}
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device)
    found = diagnose(
        *(model, tokenizer, saes, bad, good),
        fault=fault,
        layers=layers,
        top=args.top,
        suspects=args.suspects,
        where=args.where,
        proof=None if args.no_proof else _proof(args, tokenizer, bad, fault),
        chat=uses_chat(args, tokenizer),
        batch_size=args.batch_size,
        max_length=args.max_length,
    )
    print(f"{len(found.cases)} bad and {found.good} good answers.\n\n{found.table()}\n")
    with replacing(path) as file:
        json.dump(found.to_dict(), file, ensure_ascii=False)
    print(f"Wrote {path}")
    return _write_features(found, path.with_suffix(".safetensors"))


def _write_features(found: Diagnosis, path: Path) -> int:
    """Write the features that stand for the fault, or see that there is no file of them. Returns the exit code."""
    from ..inspection.diagnose_trials import FEW

    if found.proof is None:
        print(f"Wrote {found.ranked.save(path)}. Its features are suspects: nothing was tested.")
        return 0
    if found.features is None:
        print("No feature passed the proof, so no feature set was written.")
        remove_older(path, "its features are not those of this diagnosis")
        return NOT_PROVED
    print(f"Wrote {found.features.save(path)}")
    if any(trial.is_cause for trial in found.proof.trials):
        return 0
    print(f"Its features are a hint, not a proof. A proof needs at least {FEW} cases that show the fault.")
    return NOT_PROVED


def _rows(args: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """The rows with the bad answers, and those to compare them with."""
    if (args.cases is None) == (args.response is None):
        raise ValueError("Give either --prompt and --response, or --cases with a file of them.")
    if args.cases is not None and args.prompt is not None:
        raise ValueError("--prompt belongs to --response; with --cases, the prompts are in the file.")
    if args.cases is None and args.prompt is None and not args.no_proof and args.prove_by != "probability":
        raise ValueError(
            "--response needs --prompt, because the prompt is answered again. Or give --prove-by probability, or "
            "--no-proof."
        )
    against, cases = (
        [{**row, "language": row.get("language") or args.language} for row in read_rows(file, "response", None)]
        if file
        else []
        for file in (args.against, args.cases)
    )
    if args.cases is not None:
        return cases, against
    row = {"prompt": args.prompt, "response": args.response, "language": args.language}
    return [{name: value for name, value in row.items() if value is not None}], against


def _fault(args: argparse.Namespace, rows: Sequence[Row]) -> Fault:
    from ..inspection.diagnose_cases import LoopFault, SwitchFault, TextFault
    from ..metrics import SwitchCriteria

    to = None if args.to is None else get_language(args.to).code
    named: dict[str, Any] = {} if args.name is None else {"name": args.name}
    if args.fault_text is not None:
        return TextFault(args.fault_text, **named)
    loop = LoopFault(loop_settings(args, tokens=False), **named)
    switch = SwitchFault(SwitchCriteria(to=to), **{"name": to or "switch", **named})
    kind = args.fault if args.fault != "auto" else "switch" if to else _kind(rows, loop, switch)
    return loop if kind == "loop" else switch


def _kind(rows: Sequence[Row], loop: Fault, switch: Fault) -> str:
    """What the rows were measured for; else what is found in them."""
    if LOOP in rows[0] or UNEXPECTED in rows[0]:
        return "loop" if LOOP in rows[0] else "switch"
    if any(loop.find(row["response"], None, None) for row in rows):
        return "loop"
    if any(row.get("language") and switch.find(row["response"], row["language"], None) for row in rows):
        return "switch"
    raise ValueError(
        "No answer ends in a loop, and none switches language as far as --language says. Name the faulty words with "
        "--fault-text."
    )


def _proof(args: argparse.Namespace, tokenizer: Any, bad: Sequence[Case], fault: Fault) -> Any:
    from ..inspection.diagnose_answers import ProofSettings, ProveBy
    from ..inspection.diagnose_cases import SwitchFault
    from ..sampling import SamplingSettings

    longest = max(len(tokenizer(case.response)["input_ids"]) for case in bad)
    tokens = args.max_new_tokens or min(longest, LONGEST_ANSWER)
    by: ProveBy = "probability" if isinstance(fault, SwitchFault) else "answers"
    return ProofSettings(
        SamplingSettings(args.temperature, args.top_p, tokens, seed=args.seed),
        by=by if args.prove_by == "auto" else args.prove_by,
        members=tuple(args.test),
        samples=args.samples,
        strength=args.strength,
        alpha=args.alpha,
        controls=args.controls,
        cases=args.limit,
        batch_size=args.answers_at_once,
    )
