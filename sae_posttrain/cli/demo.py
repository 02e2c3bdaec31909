"""`sae-posttrain demo`: train and measure both methods on two miniature tasks, offline, within minutes."""

from __future__ import annotations

import argparse
import shlex
from importlib.util import find_spec
from pathlib import Path

HALVES = ("switching", "loops")
NEEDED = {"trl": "trl", "jinja2": "report", "matplotlib": "report"}
NEXT_SWITCHING = """\
sae-posttrain discover language --model Qwen/Qwen3-1.7B-Base --sae Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 \\
    --texts zh=zh.txt en=en.txt ru=ru.txt ko=ko.txt --layers 26 27 --top 2 --output zh.safetensors
sae-posttrain sft --model_name_or_path Qwen/Qwen3-1.7B-Base --dataset_name data/sft --features zh.safetensors \\
    --suppress zh --sasft_weight 0.05 --sasft_scale typical --output_dir runs/sasft
sae-posttrain measure code-switching --model runs/sasft --prompts prompts.jsonl --to zh --max-new-tokens 512"""
NEXT_LOOPS = """\
sae-posttrain discover repetition --model Qwen/Qwen3-1.7B-Base --sae Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 \\
    --prompts prompts.jsonl --layers 14 18 22 --output loops.safetensors
sae-posttrain calibrate --model Qwen/Qwen3-1.7B-Base --features loops.safetensors --prompts prompts.jsonl \\
    --output loops.safetensors
sae-posttrain grpo --model_name_or_path Qwen/Qwen3-1.7B-Base --dataset_name data/rl --features loops.safetensors \\
    --loss_type dapo --rewards loop_penalty trl.rewards.accuracy_reward --output_dir runs/steered
sae-posttrain measure repetition --model runs/steered --prompts prompts.jsonl"""
NEXT = {"switching": NEXT_SWITCHING, "loops": NEXT_LOOPS}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo", help="train and measure both methods in two miniature worlds, offline, in a few minutes on two cores"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--only", choices=HALVES, help="run only this half (default: both)")
    parser.add_argument(
        "--suppress", default="zh", choices=("zh", "ru", "ko"), help="language to keep out (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of data, discovery and training (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        choices=(1, 2),
        help="processes that train and measure, on one thread each (default: 2, or 1 if there is only one core)",
    )
    parser.add_argument(
        "--train-worlds",
        action="store_true",
        help="also train the two base models and their SAEs, which takes three minutes more (default: use those that "
        "ship with the package)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Checked first: otherwise the demo would train for minutes before it stops.
    needed = {**NEEDED, **({"sparsify": "train-sae"} if args.train_worlds else {})}
    if missing := [library for library in needed if find_spec(library) is None]:
        extras = ",".join(dict.fromkeys(needed.values()))
        raise ValueError(f"The demo needs {' and '.join(missing)}: pip install 'sae-posttrain[{extras}]'.")

    from ..lab.loops import demonstration as loops
    from ..lab.loops.world import PLAN as LOOPS_PLAN
    from ..lab.shared.jobs import processes
    from ..lab.shared.record import arm_folder
    from ..lab.switching import demonstration as switching
    from ..lab.switching.world import PLAN as SWITCHING_PLAN
    from ..report import write_report

    halves = [args.only] if args.only else list(HALVES)
    runs: list[Path] = []
    with processes(args.processes) as jobs:
        if "switching" in halves:
            print("Less code-switching, with SASFT", flush=True)
            output, plan = args.output / "switching", SWITCHING_PLAN if args.train_worlds else None
            outcomes = switching.demonstrate(output, suppress=args.suppress, seed=args.seed, plan=plan, jobs=jobs)
            runs += [*(arm_folder(output, outcome.arm) for outcome in outcomes), output]
        if "loops" in halves:
            print("\nLess endless repetition, with steered rollouts", flush=True)
            output, plan = args.output / "loops", LOOPS_PLAN if args.train_worlds else None
            reinforced = loops.demonstrate(output, seed=args.seed, plan=plan, jobs=jobs)
            runs += [*(arm_folder(output, outcome.arm) for outcome in reinforced), output]
    report = write_report(runs, args.output / "report.html")
    print(f"\n{closing(report, halves, args.output)}")
    return 0


def closing(report: Path, halves: list[str], output: Path) -> str:
    """The path of the report, and the next commands to try: on the miniature models and on the user's own model."""
    steering = {
        "switching": f"--features {_quoted(output / 'switching' / 'sasft.safetensors')} --alpha 1 2",
        "loops": f"--features {_quoted(output / 'loops' / 'repetition.safetensors')}",
    }
    here = [
        f"sae-posttrain steer --model {_quoted(output / half / 'base')} {steering[half]} --prompt 'story: dog, bread.'"
        for half in halves
    ]
    return "\n\n".join(
        [
            "The results are on one page, with curves, features and examples. Open it in a browser:\n"
            f"{report.resolve()}",
            "Next, steer the miniature models along the features that were found:",
            "\n".join(here),
            "Then try it on your own model, for example Qwen3-1.7B-Base. `sae-posttrain sae list` names more SAEs.\n"
            "You need texts in each language, prompts (rows with `prompt` and `language`) and training data.",
            *(NEXT[half] for half in halves),
        ]
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
