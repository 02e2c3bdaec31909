"""`sae-posttrain calibrate`: measure how strongly to steer with a feature set, and store the strength in the set.

Beside the feature set it writes the curve (.calibration.json) and every response (.calibration.jsonl).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artefacts import CALIBRATION_CURVE, CALIBRATION_RESPONSES
from .engine_options import VLLM, add_engine, add_shape, answer_shape, check_engine
from .engines import kept_responses, server_engine, stopped, vllm_engine
from .inputs import add_chat, add_dtype, add_loops, load_model, load_tokenizer, loop_settings, read_rows, uses_chat
from .output_files import check_file, remove_older, replacing
from .processes import launched_processes, shares_work
from .wording import in_options

if TYPE_CHECKING:
    from ..feature_set import FeatureSet
    from ..sampling import KeptResponses, SamplingSettings, ScoringEngine
    from ..steering import Calibration

_SETTINGS = ("alphas", "top", "refine", "target_rate", "max_ratio", "batch_size")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "calibrate", help="find the weakest steering that causes loops, and store it in a feature set"
    )
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    parser.add_argument("--adapter", help="folder or hub id of a PEFT adapter for --model")
    parser.add_argument("--features", required=True, help="feature set: a file, a folder or a hub id")
    parser.add_argument(
        "--prompts", required=True, metavar="FILE", help="file whose rows have a prompt (text or messages)"
    )
    parser.add_argument("--limit", type=int, default=32, help="number of prompts to use (default: %(default)s)")
    parser.add_argument(
        "--output",
        required=True,
        help=".safetensors file to write; may be the file of --features. The curve and the responses are written "
        "beside it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_goal(parser.add_argument_group("search and target"))
    _add_sampling(parser.add_argument_group("sampling, as in the later training"))
    add_engine(parser.add_argument_group("engine that samples and steers; a server: vLLM's, with these features"))
    parser.set_defaults(run=run)
    shares_work(parser, when=lambda args: not args.endpoint)


def _add_goal(goal: argparse._ArgumentGroup) -> None:
    goal.add_argument(
        "--alphas",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0],
        help="strengths to try, in units of a feature's typical strength (default: %(default)s)",
    )
    goal.add_argument(
        "--top",
        type=int,
        nargs="+",
        help="numbers of features per layer to try; the features that discovery ranked highest are taken (default: "
        "one, and all)",
    )
    goal.add_argument(
        "--refine", type=int, default=0, help="number of bisection steps below the best alpha (default: %(default)s)"
    )
    goal.add_argument(
        "--target-rate", type=float, default=0.9, help="share of the responses that should loop (default: %(default)s)"
    )
    goal.add_argument(
        "--max-ratio",
        type=float,
        default=2.0,
        help="largest perplexity allowed for the text before the loop, as a multiple of the unsteered one (default: "
        "%(default)s)",
    )
    add_loops(goal, tokens=True)


def _add_sampling(sampling: argparse._ArgumentGroup) -> None:
    sampling.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        default=[1.0],
        help="one or several temperatures to try; 0 is greedy (default: %(default)s)",
    )
    sampling.add_argument("--top-p", type=float, default=1.0, help="top-p (default: %(default)s)")
    sampling.add_argument("--max-new-tokens", type=int, default=256, help="token limit (default: %(default)s)")
    sampling.add_argument("--batch-size", type=int, default=32, help="responses sampled at once (default: %(default)s)")
    sampling.add_argument("--seed", type=int, default=0, help="random seed of the sampling (default: %(default)s)")
    add_shape(sampling)
    add_dtype(sampling)
    add_chat(sampling)


def run(args: argparse.Namespace) -> int:
    path = check_file(args.output)
    check_engine(args, of_the_server=("adapter", "vllm_args"))
    prompts = [row["prompt"] for row in read_rows(args.prompts, "prompt", args.limit)]

    from ..feature_set import FeatureSet
    from ..sampling import SamplingSettings

    features = FeatureSet.load(args.features)
    sampling = SamplingSettings(
        args.temperature[0], args.top_p, args.max_new_tokens, seed=args.seed, **answer_shape(args)
    )
    with _engine(args, features) as (engine, tokenizer, process):
        identity = {**engine.identity(), "chat": uses_chat(args, tokenizer), "features": features.sha256}
        given: dict[str, Any] = {"sampling": sampling, "engine": engine, "tokenizer": tokenizer}
        # Every temperature and alpha has a key of its own, so more of them may be tried in a run that is continued.
        settings = {name: value for name, value in asdict(sampling).items() if name != "temperature"}
        with kept_responses(args.output, identity, prompts, [settings], process=process) as kept:
            try:
                calibration = _calibrated(args, features, prompts, **given, kept=kept)
            except KeyboardInterrupt:
                return stopped(kept if process == 0 else None)
            if process == 0:
                _tell(calibration, args, path, prompts)
            if kept is not None:
                kept.remove()
    return 0 if calibration.best is not None else 1


@contextmanager
def _engine(args: argparse.Namespace, features: FeatureSet) -> Iterator[tuple[ScoringEngine, Any, int]]:
    """What samples and steers, the model's tokenizer, and the number of this process."""
    from ..steering.steered_engine import steered_engine

    if args.endpoint:
        yield server_engine(args), load_tokenizer(args.model), 0
    elif args.engine == VLLM:
        with vllm_engine(args, args.features) as engine:
            yield engine, engine.tokenizer, 0
    else:
        with launched_processes() as state:
            model, tokenizer = load_model(args.model, dtype=args.dtype, device=state.device, adapter=args.adapter)
            yield steered_engine(model, tokenizer, features, args.batch_size), tokenizer, state.process_index


def _calibrated(
    args: argparse.Namespace,
    features: FeatureSet,
    prompts: Sequence[Any],
    *,
    sampling: SamplingSettings,
    engine: ScoringEngine,
    tokenizer: Any,
    kept: KeptResponses | None,
) -> Calibration:
    from ..steering import calibrate

    return calibrate(
        None,
        tokenizer,
        features,
        prompts,
        temperatures=args.temperature,
        sampling=sampling,
        chat=uses_chat(args, tokenizer),
        loop_settings=loop_settings(args, tokens=True),
        engine=engine,
        kept=kept,
        **{name: getattr(args, name) for name in _SETTINGS},
    )


def _tell(calibration: Calibration, args: argparse.Namespace, path: Path, prompts: Sequence[Any]) -> None:
    """Print the curve, and write it with the responses and, if there is one, the calibrated feature set."""
    print(json.dumps(calibration.to_dict(), indent=2) if args.json else calibration.table())
    curve, responses = path.with_suffix(CALIBRATION_CURVE), path.with_suffix(CALIBRATION_RESPONSES)
    curve.parent.mkdir(parents=True, exist_ok=True)
    curve.write_text(json.dumps(calibration.to_dict(), indent=1) + "\n", encoding="utf-8")
    with replacing(responses) as file:
        for row in response_rows(calibration, prompts):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    verdict = in_options(calibration.verdict(), args)
    if calibration.best is not None:
        calibration.calibrated().save(path)
        out = sys.stderr if args.json else sys.stdout
        print(f"\n{verdict}\nWrote {path}, {curve} and {responses}", file=out)
        return
    print(f"\nNo feature set was written, only {curve} and {responses}. {verdict}", file=sys.stderr)
    if not (path.exists() and Path(args.features).exists() and path.samefile(args.features)):
        remove_older(path, "its alpha is not of this calibration", sys.stderr)


def response_rows(calibration: Calibration, prompts: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """One row of a responses file for each response, with the steering that was used to sample it."""
    for one in calibration.answers:
        yield {
            "prompt": prompts[one.prompt],
            **one.response.to_row(),
            "layers": list(one.layers),
            "top": one.top,
            "temperature": one.temperature,
            "alpha": one.alpha,
            "looped": one.looped,
        }
