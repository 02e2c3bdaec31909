"""Run an experiment of this recipe: every step of its YAML file in order, each in one process on one thread.

python recipes/real_weights/run.py --experiment switching --corpus CORPUS --models models --output real_weights
The same command continues after an interruption: a step that is finished is skipped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(os.path.relpath(Path(__file__).parent))  # so that a step's command is the same in another folder
EXPERIMENTS = HERE / "experiments"
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """One process of an experiment.

    Args:
        name: of the step; its log and its record have this name.
        command: arguments of Python: a script of this folder, or `-m sae_posttrain` and its arguments.
        always: whether it runs again although it is finished, as what measures the runs that are there by now.
    """

    name: str
    command: tuple[str, ...]
    always: bool = False


def main(arguments: Sequence[str] | None = None) -> list[Step]:
    """Run the command; returns the steps that it ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
    parser.add_argument("--experiment", required=True, help=f"{', '.join(names)}, or a YAML file of the same layout")
    parser.add_argument("--models", type=Path, required=True, help="folder of the checkpoints that prepare.py makes")
    parser.add_argument("--output", type=Path, required=True, help="folder for texts, SAEs, features, runs and logs")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of CODE.jsonl.gz files")
    parser.add_argument("--results", type=Path, help="CSV of the results (default: results.csv in --output)")
    parser.add_argument("--seeds", type=int, nargs="+", help="run only the steps of these seeds, and those of no seed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these steps, such as 'sasft-zh-*'")
    parser.add_argument("--list", action="store_true", help="print the steps, and which are finished, and run none")
    args = parser.parse_args(arguments)
    where = {"models": args.models, "output": args.output, "corpus": args.corpus, "here": HERE}
    where["results"] = args.results or args.output / "results.csv"
    ran = []
    for step in chosen(read_steps(args.experiment, where), args.only, args.seeds):
        finished = is_finished(step, args.output) and not step.always
        if args.list:
            print(f"{'finished' if finished else 'to run':<9} {step.name:<30} {shlex.join(step.command)}")
        elif not finished:
            run(step, args.output)
            ran.append(step)
    return ran


def read_steps(experiment: str, where: dict[str, Any]) -> list[Step]:
    """The steps of an experiment, with every seed and value filled in.

    A file has `seeds`, `values` and `steps`. A step has a `name`, a `run` (its command), and perhaps `each`: a list of
    values for which it is repeated. Names and commands hold `{seed}`, the values of `each` and of the file, and
    `{models}`, `{output}`, `{corpus}`, `{results}` and `{here}`.

    Raises:
        FileNotFoundError: no such experiment.
        ValueError: an unknown key or placeholder, or a name that two steps have.
    """
    path = EXPERIMENTS / f"{experiment}.yaml"
    path = path if path.is_file() else Path(experiment)
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
        raise FileNotFoundError(f"There is no experiment {experiment!r}; expected {names} or a YAML file.")
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_keys(path, described, {"seeds", "values", "steps"})
    common = {name: str(value) for name, value in where.items()}
    for name, value in described.get("values", {}).items():
        common[name] = value.format(**common)  # a value may hold those before it
    steps = [step for entry in described["steps"] for step in _filled(path, entry, described.get("seeds", [0]), common)]
    names_seen = [step.name for step in steps]
    twice = sorted({name for name in names_seen if names_seen.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: several steps are called {', '.join(twice)}; put {{seed}} or a value into the name.")
    return steps


def _filled(path: Path, entry: dict[str, Any], seeds: Sequence[int], common: dict[str, Any]) -> Iterator[Step]:
    """A step for each of its values and seeds."""
    _check_keys(path, entry, {"name", "run", "each", "seeds", "always"})
    text = entry["name"] + entry["run"]
    for values in entry.get("each", [{}]):
        for seed in entry.get("seeds", seeds) if "{seed}" in text else [0]:
            known = {**common, **values, "seed": seed}
            try:
                words = tuple(shlex.split(entry["run"].format(**known)))
                yield Step(entry["name"].format(**known), words, entry.get("always", False))
            except KeyError as error:
                raise ValueError(f"{path}, step {entry['name']}: {error} is none of {', '.join(known)}.") from error


def _check_keys(path: Path, entry: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}; expected {', '.join(sorted(known))}.")


def chosen(steps: Sequence[Step], only: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Step]:
    """The steps of these names (with * for anything) and seeds. Raises: ValueError for a name that no step has."""
    for pattern in only or ():
        if not any(fnmatch.fnmatch(step.name, pattern) for step in steps):
            raise ValueError(f"No step is called {pattern!r}; the steps are {', '.join(step.name for step in steps)}.")
    named = [step for step in steps if not only or any(fnmatch.fnmatch(step.name, pattern) for pattern in only)]
    if seeds is None:
        return named
    return [step for step in named if seed_of(step) is None or seed_of(step) in seeds]


def seed_of(step: Step) -> int | None:
    """The number at the end of a step's name, or None."""
    last = step.name.rsplit("-", 1)[-1]
    return int(last) if last.isdigit() else None


def record_of(step: Step, output: Path) -> Path:
    return output / "steps" / f"{step.name}.json"


def is_finished(step: Step, output: Path) -> bool:
    """Whether the step ran to its end with this command."""
    record = record_of(step, output)
    return record.exists() and json.loads(record.read_text(encoding="utf-8"))["command"] == list(step.command)


def run(step: Step, output: Path) -> None:
    """Run a step to its end and record it; its output goes to a log.

    Raises:
        RuntimeError: the step failed.
    """
    log, record = output / "logs" / f"{step.name}.log", record_of(step, output)
    for path in (log, record):
        path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{step.name}: {shlex.join(step.command)}", flush=True)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w", encoding="utf-8") as file:
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, *step.command]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        last = "\n".join(log.read_text(encoding="utf-8").splitlines()[-10:])
        raise RuntimeError(f"Step {step.name} failed with status {code}. The end of {log}:\n{last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = round(time.monotonic() - start)
    cpu_seconds = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    known = {"command": list(step.command), "seconds": seconds, "cpu_seconds": cpu_seconds}
    record.write_text(json.dumps(known) + "\n", encoding="utf-8")
    print(f"{step.name}: {seconds} s, {cpu_seconds} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
