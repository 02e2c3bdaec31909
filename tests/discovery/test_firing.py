"""Which features fire on each text: against the SAE's own encoding of the residuals, and what a cache keeps."""

# S sequence, D model width, K dictionary size

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.numpy import load_file
from torch import Tensor

from sae_posttrain.discovery import firing, firing_cache
from sae_posttrain.discovery.firing import FiringSets, collect_firing
from sae_posttrain.sae import SparseAutoencoder, TopK

WORDS = [f"w{number}" for number in range(20)]
TEXTS = ["w1 w2 w3", "w4 w5", "w6", "", "w7 w8 w9 w10 w11", "w12 w1 w4 w2"]
LAYERS = (1, 2)


def random_sae(layer: int) -> SparseAutoencoder:
    encoder_KD = torch.randn(24, tiny_models.WIDTH, generator=torch.Generator().manual_seed(layer))
    return SparseAutoencoder(encoder_KD, torch.zeros(24), encoder_KD, torch.zeros(tiny_models.WIDTH), TopK(4), layer)


KD = ("encoder", "bias", "decoder")


def stretched(tensor_K: Tensor) -> Tensor:
    """With so many features that do not fire that two bytes are not enough for their numbers."""
    return torch.cat([tensor_K, torch.zeros(70_000, *tensor_K.shape[1:])])


SAES = {layer: random_sae(layer) for layer in LAYERS}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.word_tokenizer(WORDS, "<pad>", "<end>")


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return tiny_models.qwen3(len(tokenizer))


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (firing, firing_cache):
        monkeypatch.setattr(module, "SHARD_SIZE", 2)


def expected(model: Any, tokenizer: Any, layer: int, text: str, at: str, *, by: str = "activation") -> set[int]:
    """One text at a time, by `output_hidden_states`."""
    ids = tokenizer(text)["input_ids"]
    if len(ids) < 2:
        return set()
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    residual_SD: Tensor = states[layer + 1][0][1:]
    read = SAES[layer].encode if by == "activation" else SAES[layer].pre_activations
    fires_SK = read(residual_SD) > 0
    fires_K = fires_SK[-1] if at == "last" else fires_SK.any(0)
    return set(fires_K.nonzero()[:, 0].tolist())


@pytest.mark.parametrize("at", ["any", "last"])
def test_it_is_the_saes_own_activation_that_fires(model: Any, tokenizer: Any, at: Any) -> None:
    found = collect_firing(model, tokenizer, SAES, iter(TEXTS), layers=LAYERS, at=at, batch_size=3, progress=False)
    differs = 0
    for layer in LAYERS:
        assert len(found[layer]) == len(TEXTS)
        for example, text in enumerate(TEXTS):
            assert found[layer][example].tolist() == sorted(expected(model, tokenizer, layer, text, at))
            differs += expected(model, tokenizer, layer, text, at, by="pre") != set(found[layer][example].tolist())
    assert differs >= 2 * len([text for text in TEXTS if " " in text])  # above zero is not firing


def test_a_model_in_training_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    collect_firing(model, tokenizer, SAES, TEXTS, layers=[1], progress=False)
    assert model.training
    assert not model.model.layers[0].training
    model.eval()


def rows(sets: FiringSets) -> list[list[int]]:
    return [sets[example].tolist() for example in range(len(sets))]


def test_a_killed_run_goes_on_and_ends_with_the_same_sets(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, progress=False)

    def texts_until_killed() -> Iterator[str]:
        yield from TEXTS[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_firing(model, tokenizer, SAES, texts_until_killed(), layers=LAYERS, cache=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    read: list[int] = []
    collect = firing._collect

    def counted(*given: Any, **reading: int) -> Any:
        read.append(len(given[3]))
        return collect(*given, **reading)

    monkeypatch.setattr(firing, "_collect", counted)
    for _ in range(2):  # the second time everything is there
        kept = collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)
        assert {layer: rows(kept[layer]) for layer in LAYERS} == {layer: rows(plain[layer]) for layer in LAYERS}
    assert read == [2]


def test_a_cache_of_something_else_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)
    with pytest.raises(ValueError, match="at was 'any'"):
        collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, at="last", cache=tmp_path, progress=False)
    changed = [*TEXTS[:3], "w1 w1", *TEXTS[4:]]
    with pytest.raises(ValueError, match="collected from other texts than texts 3 to 4"):
        collect_firing(model, tokenizer, SAES, changed, layers=LAYERS, cache=tmp_path, progress=False)
    broken = sorted(tmp_path.glob("*.safetensors"))[0]
    broken.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="Delete it and run again"):
        collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)


def test_bad_settings_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="expected 'any' or 'last'"):
        collect_firing(model, tokenizer, SAES, TEXTS, layers=[1], at="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="No texts"):
        collect_firing(model, tokenizer, SAES, [], layers=[1])
    with pytest.raises(ValueError, match="expected strings only"):
        collect_firing(model, tokenizer, SAES, [None], layers=[1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="outside of 0 to 3"):
        FiringSets.of([[4]], d_sae=4)


def test_sets_take_two_bytes_a_feature_where_the_dictionary_allows() -> None:
    assert FiringSets.of([[1]], d_sae=65_536).features.dtype == np.uint16
    assert FiringSets.of([[70_000]], d_sae=131_072)[0].tolist() == [70_000]


def test_the_files_become_one_that_is_read_in_place(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    wide = {1: SAES[1], 2: replace(SAES[2], **{name: stretched(getattr(SAES[2], name)) for name in KD})}
    arguments: Any = {"layers": LAYERS, "cache": tmp_path, "progress": False}
    plain = collect_firing(model, tokenizer, wide, TEXTS, layers=LAYERS, progress=False)
    kept = collect_firing(model, tokenizer, wide, TEXTS, **arguments)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [firing_cache.JOINED]
    tensors = load_file(tmp_path / firing_cache.JOINED)  # by the library itself
    for layer in LAYERS:
        assert isinstance(kept[layer].features, np.memmap)
        assert kept[layer].features.dtype == (np.uint16, np.uint32)[layer - 1]
        assert rows(kept[layer]) == rows(plain[layer])
        assert np.array_equal(tensors[f"{layer}.features"], plain[layer].features)
        assert np.array_equal(tensors[f"{layer}.offsets"], plain[layer].offsets)
    more = [*TEXTS, "w1 w7"]
    grown = collect_firing(model, tokenizer, wide, more, **arguments)
    fewer = collect_firing(model, tokenizer, wide, TEXTS[:4], **arguments)
    for layer in LAYERS:
        assert rows(grown[layer])[:-1] == rows(plain[layer])
        assert len(grown[layer]) == len(more)
        assert rows(fewer[layer]) == rows(plain[layer])[:4]
        assert fewer[layer].counts().tolist() == FiringSets.of(rows(fewer[layer]), wide[layer].d_sae).counts().tolist()


def test_counts_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "COUNTED_AT_ONCE", 3)
    assert FiringSets.of([[0, 1], [1, 2, 3], [], [1, 3]], d_sae=5).counts().tolist() == [1, 3, 1, 2, 0]
    assert FiringSets.of([[]], d_sae=2).counts().tolist() == [0, 0]


def test_a_cache_notices_other_weights_under_the_same_name(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    collect_firing(model, tokenizer, SAES, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight += 0.01
    with pytest.raises(ValueError, match="model_sha256 was"):
        collect_firing(other, tokenizer, SAES, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)
    busier = {layer: replace(one, activation=TopK(5)) for layer, one in SAES.items()}  # from no file, so without a hash
    with pytest.raises(ValueError, match="sae_sha256 was"):
        collect_firing(model, tokenizer, busier, TEXTS, layers=LAYERS, cache=tmp_path, progress=False)
