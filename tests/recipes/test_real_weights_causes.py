"""The recipe on pretrained models: what features do before a switch, and what taking them away does."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from real_weights_world import arm_arguments, read_jsonl

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main as cli
from sae_posttrain.inspection import SwitchPassage, find_passages
from sae_posttrain.residual import read_residuals
from sae_posttrain.steering import steer, typical_contributions
from sae_posttrain.vocabulary import token_scripts

Rows = dict[tuple[str, ...], dict[str, str]]
LAYER = 2
SEEDS = ("42", "1")


@pytest.fixture(scope="module")
def place(scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plain runs, what they sampled, and random features of the same SAEs."""
    folder = tmp_path_factory.mktemp("causes")
    for seed in SEEDS:
        scripts["arm"].main(arm_arguments(world, folder / f"sft-{seed}", "--arm", "sft", "--seed", seed))
        prompts = ["--model", str(folder / f"sft-{seed}"), "--prompts", str(world / "texts" / "prompts.jsonl")]
        sampling = ["--samples", "3", "--temperature", "3", "--top-p", "1", "--max-new-tokens", "12", "--no-chat"]
        kept = ["--seed", seed, "--output", str(folder / f"answers-{seed}.jsonl")]
        assert cli(["measure", "code-switching", *prompts, *sampling, *kept]) == 0
    texts = [f"{code}={world}/texts/{code}.jsonl" for code in ("en", "zh", "ru", "ko")]
    where = ["--model", str(world / "model"), "--sae", str(world / "SAE-Res-tiny-W64-L0_8"), "--layers", "1", "2"]
    drawn = ["--select", "random", "--targets", "zh", "--output", str(folder / "random.safetensors")]
    assert cli(["discover", "language", *where, "--texts", *texts, *drawn]) == 0
    return folder


def call(script: ModuleType, world: Path, place: Path, *more: str) -> Rows:
    """The rows that a script has written for both seeds, by arm, seed, metric and setting."""
    files = {
        "runs": [place / f"sft-{seed}" for seed in SEEDS],
        "answers": [place / f"answers-{seed}.jsonl" for seed in SEEDS],
        "features": [world / "features.safetensors"] * 2,
        "random": [place / "random.safetensors"] * 2,
        "texts": [world / "texts"] * 2,
    }
    where = [word for name, paths in files.items() for word in (f"--{name}", *map(str, paths))]
    results = place / f"{script.__name__}.csv"
    script.main([*where, "--targets", "zh", "--dtype", "float32", "--results", str(results), *more])
    with results.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(row["arm"], row["seed"], row["metric"], row["setting"]): row for row in rows}


def switches(scripts: dict[str, ModuleType], place: Path, seed: str) -> tuple[Any, Any, list[SwitchPassage]]:
    """The run's model and tokenizer, and its switches into Chinese."""
    model, tokenizer = scripts["result_rows"].load_run(place / f"sft-{seed}", "float32")
    passages = find_passages(tokenizer, read_jsonl(place / f"answers-{seed}.jsonl"), "zh")
    return model, tokenizer, [one for one in passages if one.place is not None]


def test_pre_activations_are_those_of_the_token_before_a_switch(
    scripts: dict[str, ModuleType], world: Path, place: Path
) -> None:
    found = call(scripts["before_switches"], world, place)
    layer = next(one for one in FeatureSet.load(world / "features.safetensors").layers if one.layer == LAYER)
    arm, where = f"into zh, features of zh, layer {LAYER}", "offset -1"
    means = []
    for seed in SEEDS:
        model, _, passages = switches(scripts, place, seed)
        values = []
        for passage in passages:
            assert passage.place is not None
            residual_D = read_residuals(model, [LAYER], [passage.ids])[0][LAYER][0, passage.place - 1]
            values.append(float(((layer.encoder @ residual_D + layer.bias) / layer.typical).mean()))
        measured = found[arm, seed, "pre-activation at a switch", where]
        means.append(sum(values) / len(values))
        assert float(measured["value"]) == pytest.approx(means[-1], abs=1e-3)
        plain = found[arm, seed, "pre-activation without a switch", where]
        change = found[arm, seed, "difference of pre-activation to places without a switch", where]
        assert float(change["value"]) == pytest.approx(float(measured["value"]) - float(plain["value"]), abs=1e-5)
    both = found[arm, "42+1", "pre-activation at a switch", where]
    assert float(both["value"]) == pytest.approx(sum(means) / 2, abs=1e-3)
    assert float(both["low"]) < float(both["value"]) < float(both["high"])
    assert {key[0].split(", ")[1] for key in found} == {"features of zh", "random features"}


def test_edits_of_one_norm_change_the_probability_of_a_switch(
    scripts: dict[str, ModuleType], world: Path, place: Path
) -> None:
    found = call(scripts["switch_ablation"], world, place, "--lengths", "0.5", "2", "--temperature", "3")
    metric = "probability of the language at a switch"
    direction_D = typical_contributions(FeatureSet.load(world / "features.safetensors"))[LAYER]
    for seed in SEEDS:
        model, tokenizer, passages = switches(scripts, place, seed)
        tokens_V = token_scripts(tokenizer).mask(["Hani"], size=model.config.vocab_size)
        heads = [torch.tensor([passage.ids[: passage.place]]) for passage in passages]
        with torch.no_grad():
            norms = [float(read_residuals(model, [LAYER], ids.tolist())[0][LAYER][0, -1].norm()) for ids in heads]
            plain = [float(model(ids).logits[0, -1].div(3).softmax(-1)[tokens_V].sum()) for ids in heads]
            own_D = direction_D / direction_D.norm() * sum(norms) / len(norms)
            after = []
            for ids in heads:
                places_BS = torch.zeros_like(ids, dtype=torch.bool)
                places_BS[:, -1] = True
                with steer(model, {LAYER: own_D}, alpha=-2.0, positions=places_BS):
                    after.append(float(model(ids).logits[0, -1].div(3).softmax(-1)[tokens_V].sum()))
        unchanged = found["into zh", seed, metric, "unchanged"]
        assert float(unchanged["value"]) == pytest.approx(sum(plain) / len(plain), rel=1e-3)
        arm = f"into zh, features of zh, layer {LAYER}"
        change = found[arm, seed, f"change of the {metric}", "subtracted, length 2"]
        assert float(change["value"]) == pytest.approx(sum(after) / sum(plain) - 1, abs=1e-3)
        assert int(change["n"]) == len(heads)
    both = found["into zh", "42+1", metric, "unchanged"]
    assert int(both["n"]) == sum(int(found["into zh", seed, metric, "unchanged"]["n"]) for seed in SEEDS)
    arms = {key[0] for key in found if key[3] == "added, length 0.5"}
    names = ("features of zh", "best feature of zh", "random features", "random direction", "difference of means")
    assert arms == {f"into zh, {name}, layer {layer}" for name in names for layer in (1, 2)}
    assert any(key[3] == "set to zero at all tokens" for key in found)


def test_lists_of_different_lengths_are_refused(scripts: dict[str, ModuleType], world: Path, place: Path) -> None:
    with pytest.raises(ValueError, match=r"--runs has 2, --answers has 2, --features has 1.*one entry for each seed"):
        call(scripts["switch_ablation"], world, place, "--features", "one.safetensors")
