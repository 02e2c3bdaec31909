"""The catalogue of published releases, and what is done with its names."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import tiny_models
import torch
from huggingface_hub.hf_api import RepoSibling
from published_saes import ACTIVE, LAYER, PUBLISHED, at_layer

from sae_posttrain.discovery.sources import load_saes, mismatch, provenance
from sae_posttrain.sae import ReLU, SparseAutoencoder, load_sae
from sae_posttrain.sae.catalogue import RELEASES, resolve
from sae_posttrain.sae.formats import FORMATS, available_layers, listing

QWEN = "qwen-scope-3-1.7b-base-w32k-l50"


def test_the_fourteen_qwen_scope_sets() -> None:
    sets = {name: one for name, one in RELEASES.items() if one.repository.startswith("Qwen/")}
    assert len(sets) == 14
    for one in sets.values():
        assert one.repository == f"Qwen/SAE-Res-{one.base_model.split('/')[1]}-W{one.d_sae // 1024}K-L0_{one.k}"
    assert {len(one.layers) for one in sets.values()} == {28, 36, 48, 24, 32, 64, 40}


@pytest.mark.parametrize(
    ("name", "layer", "source"),
    [
        (QWEN, 27, "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"),
        ("gemma-scope-2b-pt-res-16k", 12, "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"),
        ("gemma-scope-9b-pt-res-131k", 41, "google/gemma-scope-9b-pt-res/layer_41/width_131k/average_l0_84"),
        ("gemma-scope-9b-it-res-16k", 20, "google/gemma-scope-9b-it-res/layer_20/width_16k/average_l0_91"),
        ("gemma-scope-2-1b-pt-res-16k", 3, "google/gemma-scope-2-1b-pt/resid_post_all/layer_3_width_16k_l0_big"),
        ("llama-scope-8b-base-res-8x", 15, "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x"),
    ],
)
def test_a_short_name_leads_to_the_published_folder(name: str, layer: int, source: str) -> None:
    assert resolve(name, layer) == (source, RELEASES[name].base_model)


@pytest.mark.parametrize("name", RELEASES)
def test_every_folder_is_one_that_a_format_reads_its_layer_from(name: str) -> None:
    release = RELEASES[name]
    for layer in (release.layers[0], release.layers[-1]):
        source = release.source(layer)
        inner = "/".join(source.split("/")[2:])
        files = [f"layer{layer}.sae.pt"] if not inner else []
        files += [f"{inner}/{file}" for file in ("params.npz", "config.json", "params.safetensors")]
        files += [f"{inner}/{file}" for file in ("hyperparams.json", "checkpoints/final.safetensors")]
        found = [one for form in FORMATS for one in form.find(files, source)]
        assert layer in {one.layer for one in found}


def test_a_layer_that_a_release_lacks_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no SAE for layer 28; it has layers 0-27"):
        load_sae(QWEN, 28)
    with pytest.raises(FileNotFoundError, match=r"no SAE for layer 10; it has layers 9, 20, 31"):
        load_sae("gemma-scope-9b-it-res-16k", 10)


def test_the_layers_of_a_source(tmp_path: Path) -> None:
    assert available_layers(QWEN) == list(range(28))
    PUBLISHED["SAELens topk"].write(tmp_path)
    assert available_layers(tmp_path) == [LAYER]


@pytest.mark.parametrize(
    ("name", "pattern", "other"),
    [
        ("sparsify", "layers.{layer}", "layers.2.mlp"),
        ("Gemma Scope", "layer_{layer}/width_16k/average_l0_5", "layer_2/width_16k/average_l0_55"),
        ("SAELens topk", "{layer}/blocks.{layer}.hook_resid_post", "4/blocks.2.hook_resid_post"),
    ],
)
def test_the_layers_of_a_pattern(
    name: str, pattern: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (other, *(pattern.format(layer=layer) for layer in (1, LAYER, 12))):
        replace(PUBLISHED[name], folder=folder).write(tmp_path)
    for source in (f"{tmp_path}/{pattern}", f"{tmp_path}/{pattern}/"):
        assert available_layers(source) == [1, LAYER, 12]
    monkeypatch.chdir(tmp_path)
    assert available_layers(pattern) == [1, LAYER, 12]
    assert available_layers("someone/saes-of-layer-{layer}") == []


def test_sae_and_model_that_do_not_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The release is the real one; its file is a small one of a width that happens to be the model's."""
    path = PUBLISHED["Qwen-Scope"].write(tmp_path)
    monkeypatch.setattr(listing, "hf_hub_download", lambda *_, **__: str(path))
    listed = SimpleNamespace(siblings=[RepoSibling(rfilename=path.name)])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", MagicMock(return_value=listed))
    sae = load_sae(QWEN, LAYER, k=ACTIVE)
    model = tiny_models.qwen3(10, hidden_size=sae.d_model)
    assert (sae.base_model, sae.source) == ("Qwen/Qwen3-1.7B-Base", QWEN)
    for name, warns in (("Qwen/Qwen3-1.7B-Base", False), ("/models/qwen3-1.7b-base", False), ("Qwen/Qwen3-8B", True)):
        caplog.clear()
        model.config._name_or_path = name
        with caplog.at_level(logging.WARNING):
            load_saes({LAYER: sae}, [LAYER], model)
        assert bool(caplog.messages) == bool(mismatch(sae, model)) == warns
        if warns:
            assert "trained on Qwen/Qwen3-1.7B-Base, but the model is Qwen/Qwen3-8B" in caplog.text


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        *(("meta-llama/Llama-3.1-8B", True), ("meta-llama/Meta-Llama-3.1-8B", True)),
        *(("meta-llama/Meta-Llama-3-8B", False), ("meta-llama/Meta-Llama-3.1-8B-Instruct", False)),
    ],
)
def test_a_model_under_its_former_name_is_the_same(name: str, fits: bool) -> None:
    model = tiny_models.qwen3(10)
    model.config._name_or_path = name
    sae = replace(fake_sae(), base_model=RELEASES["llama-scope-8b-base-res-8x"].base_model)
    assert (mismatch(sae, model) == "") == fits


def test_a_file_in_the_hubs_cache_is_not_read_for_its_hash(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"not what it is named after")
    link = tmp_path / "layer3.sae.pt"
    link.symlink_to(blob)
    sae = replace(fake_sae(), file=str(link))
    assert provenance(tiny_models.qwen3(10), {LAYER: sae}, {}, "random").sae_sha256 == {"layer3.sae.pt": blob.name}
    link.unlink()
    link.write_bytes(b"")
    assert provenance(tiny_models.qwen3(10), {LAYER: sae}, {}, "random").sae_sha256 == {
        "layer3.sae.pt": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }


@pytest.mark.parametrize("source", ["{root}", "{root}/layers.{{layer}}"], ids=["a folder", "a pattern"])
def test_every_layers_file_has_its_hash(source: str, tmp_path: Path) -> None:
    source, one = source.format(root=tmp_path), PUBLISHED["sparsify"]
    other = at_layer(one, 1)
    files = {
        LAYER: one.write(tmp_path),
        1: replace(other, tensors={name: tensor + 1 for name, tensor in other.tensors.items()}).write(tmp_path),
    }
    saes = {layer: load_sae(source, layer) for layer in files}
    came_from = provenance(tiny_models.qwen3(10), saes, {}, "random")
    assert came_from.sae == source
    assert came_from.sae_sha256 == {
        f"layer{layer}/sae.safetensors": hashlib.sha256(file.read_bytes()).hexdigest() for layer, file in files.items()
    }


def fake_sae() -> SparseAutoencoder:
    zeros = torch.zeros(2, 2)
    return SparseAutoencoder(zeros, zeros[0], zeros, zeros[0], ReLU(), LAYER)
