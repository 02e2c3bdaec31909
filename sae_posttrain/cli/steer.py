"""`sae-posttrain steer`: print the answers to a prompt without steering and with steering."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .engine_options import add_shape, answer_shape
from .inputs import add_chat, add_dtype, add_loops, load_model, loop_settings, uses_chat


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("steer", help="answer prompts without steering, and with steering at each alpha")
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    parser.add_argument("--adapter", help="folder or hub id of a PEFT adapter for --model")
    parser.add_argument("--features", required=True, help="feature set: a file, a folder or a hub id")
    parser.add_argument("--layers", type=int, nargs="+", help="layers of the feature set to steer in (default: all)")
    parser.add_argument(
        "--targets",
        nargs="+",
        metavar="NAME",
        help="steer along the features of these targets only: languages, or repetition (default: all)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        nargs="+",
        help="one or several strengths, in units of a feature's typical strength; negative values weaken the "
        "features. There is one answer for each (default: the feature set's calibrated alpha)",
    )
    parser.add_argument("--prompt", nargs="+", required=True, metavar="TEXT", help="one or several prompts")
    parser.add_argument("--temperature", type=float, default=0.0, help="temperature (default: 0, which is greedy)")
    parser.add_argument("--top-p", type=float, default=0.8, help="top-p of the sampling (default: 0.8)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="token limit of an answer (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sampling (default: 0)")
    add_shape(parser)
    add_dtype(parser)
    add_chat(parser)
    add_loops(parser.add_argument_group("what counts as a loop"), tokens=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from ..feature_set import FeatureSet
    from ..metrics import find_loop
    from ..sampling import SamplingSettings, sample_responses
    from ..steering import steer

    loops = loop_settings(args, tokens=False)
    whole = FeatureSet.load(args.features)
    features = whole.select(args.targets, layers=args.layers)
    model, tokenizer = load_model(args.model, dtype=args.dtype, device=PartialState().device, adapter=args.adapter)
    alphas = [0.0, *(args.alpha or _calibrated(whole))]
    rows = len(alphas)
    shown = []
    for prompt in args.prompt:
        # One call for all answers. The first row has alpha 0, so it is bit for bit the answer without steering.
        with steer(model, features, alpha=alphas):
            answers = sample_responses(
                model,
                tokenizer,
                [prompt] * rows,
                SamplingSettings(
                    args.temperature, args.top_p, args.max_new_tokens, seed=args.seed, **answer_shape(args)
                ),
                samples=1,
                batch_size=rows,
                chat=uses_chat(args, tokenizer),
                progress=sys.stderr.isatty(),
            )
        found = [
            {
                **{"alpha": alpha, "text": one.text, "finish_reason": one.finish_reason, "tokens": one.tokens},
                "loops": find_loop(one.text, loops, ended=one.ended) is not None,
            }
            for alpha, (one,) in zip(alphas, answers, strict=True)
        ]
        shown.append({"prompt": prompt, "answers": found})
    print(json.dumps(shown, ensure_ascii=False, indent=2) if args.json else "\n\n".join(map(_readable, shown)))
    return 0


def _calibrated(features: Any) -> list[float]:
    if features.alpha is None:
        raise ValueError("--alpha: this feature set has no calibrated alpha. Give one or several, such as 1 2 4.")
    return [features.alpha]


def _readable(shown: dict[str, Any]) -> str:
    parts = [f"=== {shown['prompt']}"]
    for place, answer in enumerate(shown["answers"]):
        title = f"alpha {answer['alpha']:g}" if place else "plain"
        parts.append(f"--- {title}\n{answer['text']}\n{_ending(answer)}")
    return "\n".join(parts)


def _ending(answer: dict[str, Any]) -> str:
    """The length of an answer, and how it ended."""
    end = "ended by the model" if answer["finish_reason"] == "stop" else "cut at the token limit"
    return f"[{answer['tokens']} tokens, {end}{', ends in a loop' if answer['loops'] else ''}]"
