"""`sae-posttrain sae`: info, list and train, on a model and SAEs made here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from published_saes import ACTIVE, LAYER, PUBLISHED, D, K, Published, at_layer, draw
from sae_texts import WORDS, sentences

from sae_posttrain.cli import main
from sae_posttrain.sae import load_sae


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose blocks change the residual enough to tell them apart."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")
    tiny_models.qwen3(len(tokenizer), initializer_range=0.4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for name, seed, count in (("training", 0, 4000), ("held_out", 1, 50)):
        (folder / f"{name}.txt").write_text("\n".join(sentences(seed, count)), encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in ("training", "held_out")}


@pytest.fixture(scope="module")
def trained(model_folder: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saes")
    command = ["sae", "train", "--model", str(model_folder), "--texts", str(texts["training"]), "--layers", "1", "2"]
    command += ["--d-sae", "128", "--k", "4", "--max-length", "32", "--batch-size", "32", "--tokens", "60000"]
    assert main([*command, "--output", str(folder)]) == 0
    return folder


def info(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    main(["sae", "info", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


# Info


@pytest.mark.parametrize("one", PUBLISHED.values(), ids=PUBLISHED)
def test_info_says_what_a_file_is(one: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one.write(tmp_path / f"set-L0_{ACTIVE}")
    (said,) = info(capsys, tmp_path / f"set-L0_{ACTIVE}")
    assert (said["format"], said["layer"], said["d_model"], said["d_sae"]) == (one.format, LAYER, D, K)
    assert said["bytes"] == path.stat().st_size
    assert said["k"] == (ACTIVE if "TopK" in said["activation"] else None)


def test_info_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = PUBLISHED["SAELens jumprelu"]
    one.write(tmp_path)
    at_layer(one, 1).write(tmp_path)
    assert main(["sae", "info", str(tmp_path), "--layers", "1", str(LAYER)]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    for part in (
        "SAELens",
        "Qwen/Qwen3-1.7B-Base",
        f"{K}, for residuals of width {D}",
        "JumpReLU",
        "minus the decoder's bias",
    ):
        assert part in first
    assert "layer        1" in first
    assert f"layer        {LAYER}" in second


def test_info_finds_the_first_layer_of_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PUBLISHED["sparsify"].write(tmp_path)
    (said,) = info(capsys, f"{tmp_path}/layers.{{layer}}")
    assert (said["layer"], said["source"]) == (LAYER, f"{tmp_path}/layers.{{layer}}")
    assert main(["sae", "info", "someone/saes-of-layer-{layer}"]) == 2
    assert "Give the layer with --layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "model"], "--check and --texts are used together"),
        (["--texts", "x.txt"], "--check and --texts are used together"),
        (["--layers", "9"], "no SAE for layer 9"),
    ],
)
def test_what_info_refuses(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PUBLISHED["SAELens topk"].write(tmp_path)
    assert main(["sae", "info", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


# The check


def test_a_right_layer_fits_best(
    trained: Path, model_folder: Path, texts: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    check = ("--check", model_folder, "--texts", texts["held_out"])
    for said in info(capsys, trained, "--layers", 1, 2, *check):
        fit = said["fit"]
        shares = {int(block): share for block, share in fit["unexplained"].items()}
        assert list(shares) == [said["layer"] - 1, said["layer"], said["layer"] + 1]
        assert shares[said["layer"]] == min(shares.values())
        assert 0 < fit["active"] <= said["k"] == 4
        assert 0 <= fit["dead"] < fit["d_sae"]
        assert fit["tokens"] == 50 * 29  # the first of thirty is left out


def test_the_shares_are_those_of_arithmetic_by_hand(
    trained: Path, model_folder: Path, texts: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    (said,) = info(capsys, trained, "--layers", 1, "--check", model_folder, "--texts", texts["held_out"])
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts["held_out"].read_text().splitlines()])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    sae = load_sae(trained, 1)
    for block in (0, 1, 2):
        residual_ND = states[block + 1][:, 1:].flatten(0, 1)
        error = residual_ND - sae.decode(sae.encode(residual_ND))
        share = error.square().sum() / (residual_ND - residual_ND.mean(0)).square().sum()
        assert said["fit"]["unexplained"][str(block)] == pytest.approx(float(share), rel=1e-4)
    fired = sae.encode(states[2][:, 1:].flatten(0, 1)) > 0
    assert said["fit"]["dead"] == int((~fired.any(0)).sum())
    assert said["fit"]["active"] == pytest.approx(float(fired.sum(-1).float().mean()))


@pytest.mark.parametrize(("trained_on", "taken_for"), [(1, 2), (2, 1)])
def test_a_wrong_layer_shows(
    trained_on: int,
    taken_for: int,
    trained: Path,
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / f"layers.{taken_for}").symlink_to(trained / f"layers.{trained_on}")
    source = tmp_path / f"layers.{taken_for}"
    arguments = ["--layers", str(taken_for), "--check", str(model_folder), "--texts", str(texts["held_out"])]
    assert main(["sae", "info", str(source), *arguments]) == 1
    assert f"of layer {trained_on}'s. Layers are 0-based blocks" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_scale_shows(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_models.write_saes(tmp_path / "random-L0_4", [1], 64, tiny_models.WIDTH)
    arguments = ["--layers", "1", "--check", str(model_folder), "--texts", str(texts["held_out"])]
    assert main(["sae", "info", str(tmp_path / "random-L0_4"), *arguments]) == 1
    assert "does not explain" in capsys.readouterr().err


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("matrix", ["encoder.weight", "W_dec"])
def test_numbers_that_are_not_finite_show(
    matrix: str,
    layer: int,
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    width = tiny_models.WIDTH
    shapes = {"encoder.weight": (K, width), "encoder.bias": (K,), "W_dec": (K, width), "b_dec": (width,)}
    one = at_layer(PUBLISHED["sparsify"], layer)
    name, settings = one.config or ("", {})
    tensors = {**draw(**shapes), matrix: torch.full((K, width), math.nan)}
    replace(one, tensors=tensors, config=(name, {**settings, "d_in": width})).write(tmp_path)
    arguments = ["--layers", str(layer), "--check", str(model_folder), "--texts", str(texts["held_out"])]
    assert main(["sae", "info", str(tmp_path), *arguments]) == 1
    assert f"the SAE for layer {layer} or the model's residuals contain numbers" in capsys.readouterr().err


def test_an_sae_of_another_width_is_refused(
    model_folder: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PUBLISHED["SAELens topk"].write(tmp_path)
    assert main(["sae", "info", str(tmp_path), "--check", str(model_folder), "--texts", str(texts["held_out"])]) == 2
    assert f"reads residuals of width {D}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["--batch-size", "0"], None, "--batch-size=0: expected at least 1"),
        (["--batch-size", "-1"], None, "--batch-size=-1: expected at least 1"),
        (["--max-length", "-1"], None, "--max-length=-1: expected at least 2"),
        (["--max-length", "0"], None, "--max-length=0: expected at least 2"),
        (["--max-length", "1"], None, "--max-length=1: expected at least 2"),
        ([], "w1 w2", "too few different tokens: 1 were counted"),
        ([], "w1 w2\nw1 w2", "too few different tokens: 2 were counted"),
    ],
)
def test_what_the_check_refuses(
    arguments: list[str],
    text: str | None,
    message: str,
    trained: Path,
    model_folder: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = texts["held_out"]
    if text is not None:
        path = tmp_path / "few.txt"
        path.write_text(text, encoding="utf-8")
    command = ["sae", "info", str(trained), "--check", str(model_folder), "--texts", str(path), *arguments]
    assert main(command) == 2
    assert message in capsys.readouterr().err


# List


def test_list_shows_names_that_load_sae_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sae", "list"]) == 0
    table = capsys.readouterr().out
    assert main(["sae", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert all(name in table for name in rows)
    assert rows["qwen-scope-3-8b-base-w64k-l50"] == {
        **{"name": "qwen-scope-3-8b-base-w64k-l50", "repository": "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50"},
        **{"base_model": "Qwen/Qwen3-8B-Base", "layers": [*range(36)], "d_model": 4096, "d_sae": 65536, "k": 50},
        "hook": "the residual after the block",
    }


# Train


def test_a_trained_sae_is_sparsifys_own_and_names_its_model(trained: Path, model_folder: Path) -> None:
    sparsify = pytest.importorskip("sparsify")
    theirs, ours = sparsify.SparseCoder.load_from_disk(trained / "layers.2"), load_sae(trained, 2)
    assert (theirs.cfg.k, theirs.num_latents, theirs.cfg.transcode) == (4, 128, False)
    assert (ours.format, ours.base_model) == ("sparsify", str(model_folder))
    assert torch.equal(theirs.W_dec, ours.decoder)
    assert {path.name for path in trained.rglob("*") if path.is_file()} == {"cfg.json", "sae.safetensors"}
