"""SAEs from the hub: only what is needed is fetched, and what was fetched before loads without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled, RemoteEntryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from published_saes import ACTIVE, LAYER, PUBLISHED, at_layer

from sae_posttrain.sae import TopK, load_sae
from sae_posttrain.sae.formats import listing

REPO = f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{ACTIVE}"
Asked = list[tuple[str, str, str | None]]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder that is every repository at once."""
    folder = tmp_path / "hub"
    for layer in (2, 3, 5):
        at_layer(PUBLISHED["Qwen-Scope"], layer).write(folder)
    return folder


@pytest.fixture
def asked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is asked of the hub, in order."""
    asked: Asked = []

    def download(repo_id: str, filename: str, *, revision: str | None = None) -> str:
        asked.append((repo_id, filename, revision))
        if not (hub / filename).exists():
            raise RemoteEntryNotFoundError("404: Entry Not Found", response=MagicMock())
        return str(hub / filename)

    def model_info(self: object, repo_id: str, *, revision: str | None = None) -> SimpleNamespace:
        asked.append((repo_id, "listing", revision))
        names = ["README.md", *(path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file())]
        return SimpleNamespace(siblings=[RepoSibling(rfilename=name) for name in names])

    monkeypatch.setattr(listing, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return asked


def test_only_the_wanted_layer_is_downloaded(asked: Asked) -> None:
    sae = load_sae(REPO, LAYER, revision="v1")
    assert asked == [(REPO, "listing", "v1"), (REPO, "layer3.sae.pt", "v1")]
    assert torch.equal(sae.encoder, PUBLISHED["Qwen-Scope"].tensors["W_enc"])
    assert isinstance(sae.activation, TopK)
    assert (sae.activation.k, sae.source) == (ACTIVE, REPO)


def test_a_layer_the_repository_lacks_is_named(asked: Asked) -> None:
    with pytest.raises(FileNotFoundError, match=f"{REPO} has no SAE for layer 28; it has layers 2-3, 5"):
        load_sae(REPO, 28)
    assert asked == [(REPO, "listing", None)]


def test_one_folder_of_a_repository_with_many(hub: Path, asked: Asked) -> None:
    one = PUBLISHED["Gemma Scope"]
    one.write(hub)
    repo = "google/gemma-scope-2b-pt-res"
    sae = load_sae(f"{repo}/layer_{{layer}}/width_16k/average_l0_5", LAYER)
    assert asked == [(repo, "listing", None), (repo, f"{one.folder}/params.npz", None)]
    assert sae.base_model == "google/gemma-2-2b"


def test_settings_are_fetched_where_the_path_does_not_say_the_layer(hub: Path, asked: Asked) -> None:
    one = PUBLISHED["SAELens topk"]
    folder = one.write(hub).parent.rename(hub / "final")
    for file in hub.glob("*.pt"):
        file.unlink()
    assert load_sae("someone/saes", LAYER).file == str(folder / "sae_weights.safetensors")
    assert [name for _, name, _ in asked] == [
        *("listing", "final/cfg.json"),  # to see which layer it is
        *("final/sae_weights.safetensors", "final/cfg.json"),
    ]


def test_the_scale_beside_the_weights_is_fetched_too(hub: Path, asked: Asked) -> None:
    one = PUBLISHED["SAELens topk"]
    assert one.config
    settings = {**one.config[1], "normalize_activations": "expected_average_only_in"}
    folder = replace(one, config=(one.config[0], settings)).write(hub).parent
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5}', encoding="utf-8")
    assert load_sae(f"someone/saes/{folder.name}", LAYER).input_scale == 0.5
    assert {name for _, name, _ in asked} == {
        "listing",
        *(f"{folder.name}/{name}" for name in ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")),
    }


def test_a_file_that_is_listed_but_not_given_is_named(hub: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise RemoteEntryNotFoundError("404", response=MagicMock())

    monkeypatch.setattr(listing, "hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"lists layer3\.sae\.pt, but the download failed"):
        load_sae(REPO, LAYER)


class ConnectError(Exception):
    """As the HTTP library below the hub's raises it: no OSError."""


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("told to"), ConnectError("Name or service not known")])
def test_a_file_in_the_cache_loads_offline(error: Exception, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = hub.parent / "cache"
    repo = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    hub.rename(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", MagicMock(side_effect=error))
    sae = load_sae(REPO, LAYER)
    assert torch.equal(sae.encoder, PUBLISHED["Qwen-Scope"].tensors["W_enc"])
    assert isinstance(sae.activation, TopK)
    assert (sae.activation.k, sae.source) == (ACTIVE, REPO)


@pytest.mark.parametrize("source", ["Qwen/no-such-sae-L0_50", "./typo/in a path/L0_50", "typo", "~no-such-user/x"])
def test_what_is_neither_a_folder_nor_reachable_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither a local folder nor a Hugging Face repository"):
        load_sae(source, LAYER)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("qwen-scope-3-1.7b-base-w32k-l05", r" \(did you mean qwen-scope-3-1\.7b-base-w32k-l50\?\)"),
        ("Gemma-Scope-2b-pt-res-16k", r" \(did you mean gemma-scope-2b-pt-res-16k\?\)"),
        ("nothing like any", ""),
        ("someone/gemma-scope-2b-pt-res-16k", ""),
    ],
)
def test_the_nearest_short_name_is_told(
    source: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", MagicMock(side_effect=ConnectError("no network")))
    with pytest.raises(FileNotFoundError, match=f"`sae-posttrain sae list` shows{hint}: no network"):
        load_sae(source, LAYER)
