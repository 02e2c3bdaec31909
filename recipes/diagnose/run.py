"""Diagnose a model: some answers with a fault, as many without it, and the proof.

    python recipes/diagnose/run.py --model models/smollm2-135m --sae saes/smollm2-135m --layers 12 17 22 \
        --cases cases.jsonl --output_dir diagnosis
    python recipes/diagnose/run.py --to zh --model runs/sft-0 --sae saes --layers 14 16 17 --cases answers.jsonl \
        --output_dir switches --temperature 1.3 --no-chat

`cases.jsonl` is what `measure repetition --output` writes; with `--to`, it is what `measure code-switching --output`
writes. The script chooses cases, runs `diagnose` and `report`, and writes results.csv. It passes options that it does
not know to `diagnose`, such as `--test`, `--suspects` and `--controls`. A diagnosis that the output folder already
holds is not made again; with other options or other cases it is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_posttrain.artefacts import DIAGNOSIS, LOOP, UNEXPECTED
from sae_posttrain.cli import main as command
from sae_posttrain.cli.diagnose import NOT_PROVED
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.languages import get_language
from sae_posttrain.texts import load_rows

RECORD = "made_from.json"
NOTHING = dict.fromkeys(("low", "high", "n", "p_value", "corrected_p", "verdict"), "")


def main(arguments: Sequence[str] | None = None) -> None:
    args, passed_on = parse(arguments)
    folder: Path = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    cases, found = folder / "cases.jsonl", folder / "diagnosis.json"
    rows = choose_cases(load_rows(args.cases), args)
    words = diagnose_options(args, passed_on)
    record = json.dumps({"options": words, "cases": rows}, ensure_ascii=False)
    if not found.exists():
        cases.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        code = command(["diagnose", *words, "--cases", str(cases), "--output", str(found)])
        if code not in (0, NOT_PROVED):
            raise SystemExit("diagnose failed.")
        (folder / RECORD).write_text(record, encoding="utf-8")
    elif not (folder / RECORD).exists() or (folder / RECORD).read_text(encoding="utf-8") != record:
        raise SystemExit(
            f"{found} was made with other options or other cases. Delete it, or give another --output_dir."
        )
    if command(["report", str(folder), "--output", str(folder / "report.html")]):
        raise SystemExit("report failed.")
    diagnosis = json.loads(found.read_text(encoding="utf-8"))[DIAGNOSIS]
    run = args.name or folder.name
    results = [{"recipe": "diagnose", "run": run, **row} for row in result_rows(diagnosis)]
    append_results(args.results or folder / "results.csv", results, __file__)


def diagnose_options(args: argparse.Namespace, passed_on: Sequence[str]) -> list[str]:
    """The options of `diagnose`, without its files."""
    reading = ["--model", args.model, "--sae", args.sae, "--layers", *map(str, args.layers)]
    reading += ["--to", args.to] if args.to else []
    trials = ["--top", str(args.top), "--limit", str(args.number)]
    length = ["--max-new-tokens", str(args.max_new_tokens), "--answers-at-once", "120"]
    return [*reading, *trials, *length, *passed_on]


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and those for `diagnose`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True)
    parser.add_argument("--cases", required=True, help="what `measure … --output` wrote")
    parser.add_argument("--to", metavar="CODE", help="switches into this language are the fault (default: loops)")
    parser.add_argument("--number", type=int, default=10, help="answers with the fault (default: %(default)s)")
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        help="answers of each kind left out first, as those with which suspects were found",
    )
    parser.add_argument("--good", type=int, help="answers without it (default: as many)")
    parser.add_argument(
        "--latest", type=int, default=150, help="a chosen loop begins before this character (default: %(default)s)"
    )
    parser.add_argument("--top", type=int, default=2, help="suspected features per layer (default: %(default)s)")
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--name", help="of the run, in the results (default: the output folder's)")
    parser.add_argument("--results", type=Path, help="CSV to append to (default: results.csv in output_dir)")
    return parser.parse_known_args(arguments)


def choose_cases(rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The first answers with the fault, and the first without any.

    A chosen loop begins early, so that few new tokens show it. A chosen switch is not the first word, so that there is
    some answer before it.
    """
    if args.to:
        target = get_language(args.to)
        rows = [row for row in rows if get_language(row["language"]).code != target.code]
        bad = [row for row in rows if row[UNEXPECTED] and row[UNEXPECTED][0]["script"] in target.scripts]
        bad = [row for row in bad if row["response"][: row[UNEXPECTED][0]["start"]].strip()]
        fine = [row for row in rows if not row[UNEXPECTED]]
    else:
        bad = [row for row in rows if row[LOOP] and row[LOOP]["start"] < args.latest]
        fine = [row for row in rows if not row[LOOP] and not row["near_loop"]]
    good = args.number if args.good is None else args.good
    return [*bad[args.skip :][: args.number], *fine[args.skip :][:good]]


def result_rows(diagnosis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each number of the proof: answers with the fault, and what becomes of the first faulty token."""
    proof = diagnosis["proof"]
    where = {"model": Path(diagnosis["model"]).name, "fault": diagnosis["fault"]}
    plain = {**where, "features": ""}
    if proof["before"]:
        yield {**plain, **counted("unchanged", proof["before"])}
    yield {**plain, **number("probability of the first faulty token", proof["probability"]), "n": proof["cases"]}
    for trial in proof["trials"]:
        named = {**where, "features": " ".join(f"{layer}:{feature}" for layer, feature in trial["members"])}
        verdict = "cause" if trial["is_cause"] else "hint" if trial["is_hint"] else ""
        decided = {"p_value": trial["p_value"], "corrected_p": trial["corrected_p"], "verdict": verdict}
        answers, token = trial["answers"], trial["token"]
        if answers:
            yield {**named, **counted("ablated", answers["ablated"]), **decided}
            yield {**named, **counted("random directions ablated", answers["random_ablated"])}
            yield {
                **named,
                **drawn("share of each random draw", answers["random_draws"]),
                "p_value": answers["over_draws"],
            }
            yield {**named, **counted("difference of means ablated", answers["dense_ablated"])}
            if answers["amplified"]:
                own = counted("amplified", answers["amplified"])
                yield {**named, **own, "p_value": answers["amplifying"]["p_value"]}
                yield {**named, **counted("random directions amplified", answers["random_amplified"])}
                yield {**named, **counted("difference of means amplified", answers["dense_amplified"])}
        yield {**named, **number("first token left", token["left"]), **({} if answers else decided)}
        yield {**named, **drawn("random first token left", token["random_left"])}
        yield {**named, **number("difference of means first token left", token["dense_left"])}
        yield {**named, **number("cases in which it falls more than under random directions", token["lower"])}
        if token["raised"] is not None:
            yield {**named, **number("first token, added, times", token["raised"])}
            yield {**named, **drawn("random first token, added, times", token["random_raised"])}
            yield {**named, **number("difference of means first token, added, times", token["dense_raised"])}


def counted(metric: str, share: Mapping[str, Any]) -> dict[str, Any]:
    """The share of answers with the fault, and its interval."""
    rate = share["hits"] / share["total"]
    return {**number(metric, rate), "low": share["low"], "high": share["high"], "n": share["total"]}


def drawn(metric: str, values: Sequence[float]) -> dict[str, Any]:
    """The mean over the draws, with the lowest and the highest of them."""
    return {**number(metric, sum(values) / len(values)), "low": min(values), "high": max(values), "n": len(values)}


def number(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "value": value, **NOTHING}


if __name__ == "__main__":
    main()
