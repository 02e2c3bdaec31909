"""Qwen-Scope files as published: read exactly, read lazily, and refused when they are not what they say."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sae_posttrain.sae import SparseAutoencoder, TopK, load_sae

K, D, ACTIVE = 24, 6, 5
NAME = f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{ACTIVE}"
LAYERS = (2, 3, 5)


def published_tensors(seed: int = 0) -> dict[str, Tensor]:
    """The four tensors of one layer, with a `b_dec` large enough to show if it were subtracted."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {"W_enc": draw(K, D), "W_dec": draw(D, K), "b_enc": draw(K), "b_dec": 10 * draw(D)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.mkdir()
    for layer in LAYERS:
        torch.save(published_tensors(layer), path / f"layer{layer}.sae.pt")
    return path


def write(folder: Path, contents: object) -> None:
    torch.save(contents, folder / "layer3.sae.pt")


def encode_by_hand(tensors: dict[str, Tensor], token: list[float]) -> list[float]:
    """One token, in scalars: a dot product per feature, the k largest kept, negative ones cut."""
    rows, bias = tensors["W_enc"].tolist(), tensors["b_enc"].tolist()
    pre = [sum(w * h for w, h in zip(row, token, strict=True)) + b for row, b in zip(rows, bias, strict=True)]
    kept = sorted(range(K), key=lambda feature: pre[feature], reverse=True)[:ACTIVE]
    return [max(pre[feature], 0.0) if feature in kept else 0.0 for feature in range(K)]


def decode_by_hand(tensors: dict[str, Tensor], activations: list[float]) -> list[float]:
    columns, bias = tensors["W_dec"].tolist(), tensors["b_dec"].tolist()
    return [sum(w * a for w, a in zip(row, activations, strict=True)) + b for row, b in zip(columns, bias, strict=True)]


@pytest.mark.parametrize("shift", [0.0, -4.0], ids=["k above zero", "fewer than k above zero"])
def test_encode_and_decode_agree_with_arithmetic_by_hand(folder: Path, shift: float) -> None:
    tensors = published_tensors(3)
    tensors["b_enc"] += shift
    write(folder, tensors)
    sae, residual = load_sae(folder, 3), torch.randn(2, 4, D)
    activations = sae.encode(residual)
    by_hand = torch.tensor([[encode_by_hand(tensors, token) for token in row] for row in residual.tolist()])
    assert_close(activations, by_hand)
    assert ((activations > 0).sum(-1) == ACTIVE).all() == (shift == 0)  # else the ReLU after the top k took part
    rebuilt = torch.tensor([[decode_by_hand(tensors, token) for token in row] for row in activations.tolist()])
    assert_close(sae.decode(activations), rebuilt)


def test_pre_activations_of_a_few_features_are_those_of_all(folder: Path) -> None:
    tensors, sae, residual = published_tensors(3), load_sae(folder, 3), torch.randn(2, 4, D)
    every = sae.pre_activations(residual)
    assert_close(every, residual @ tensors["W_enc"].T + tensors["b_enc"])
    assert_close(sae.pre_activations(residual, [7, 0]), every[..., [7, 0]])


def test_directions_are_the_decoder_columns_as_stored(folder: Path) -> None:
    tensors, sae = published_tensors(3), load_sae(folder, 3)
    assert torch.equal(sae.direction(7), tensors["W_dec"][:, 7])
    assert torch.equal(sae.direction([7, 0]), tensors["W_dec"][:, [7, 0]].T)


def test_what_it_says_about_itself(folder: Path) -> None:
    sae = load_sae(folder, 3)
    assert (sae.d_model, sae.d_sae, sae.layer) == (D, K, 3)
    assert sae.source.endswith(NAME)
    assert Path(sae.file) == folder / "layer3.sae.pt"
    assert sae.encoder.dtype == torch.float32


def test_the_layer_is_the_one_asked_for(folder: Path) -> None:
    assert torch.equal(load_sae(folder, 5).encoder, published_tensors(5)["W_enc"])


def test_a_residual_in_bfloat16_is_read_in_the_precision_of_the_sae(folder: Path) -> None:
    sae, residual = load_sae(folder, 3), torch.randn(4, D).bfloat16()
    assert torch.equal(sae.pre_activations(residual), sae.pre_activations(residual.float()))


def test_weights_stay_in_the_file_until_they_are_read(folder: Path) -> None:
    path, row = folder / "layer3.sae.pt", published_tensors(3)["W_enc"][7].numpy().tobytes()
    sae = load_sae(folder, 3)
    start = path.read_bytes().index(row)
    with path.open("r+b") as file:  # the same file, so the mapping sees it; what was read before would not
        file.seek(start)
        file.write(bytes(len(row)))
    assert torch.equal(sae.encoder[7], torch.zeros(D))


def test_a_cast_is_as_asked(folder: Path) -> None:
    sae = load_sae(folder, 3, dtype=torch.bfloat16)
    assert {sae.encoder.dtype, sae.bias.dtype, sae.decoder.dtype, sae.decoder_bias.dtype} == {torch.bfloat16}
    assert torch.equal(sae.decoder, published_tensors(3)["W_dec"].T.bfloat16())


def test_mapping_never_writes_to_the_file(folder: Path) -> None:
    before = (folder / "layer3.sae.pt").read_bytes()
    load_sae(folder, 3).encoder.zero_()
    assert (folder / "layer3.sae.pt").read_bytes() == before


# The number of active features


def active(sae: SparseAutoencoder) -> int:
    assert isinstance(sae.activation, TopK)
    return sae.activation.k


@pytest.mark.parametrize(("name", "k"), [("SAE-Res-Qwen3-8B-Base-W64K-L0_20", 20), ("mine_L0_7", 7)])
def test_k_stands_in_the_name(folder: Path, name: str, k: int) -> None:
    assert active(load_sae(folder.rename(folder.parent / name), 3)) == k


def test_k_as_an_argument_goes_before_the_name(folder: Path) -> None:
    assert active(load_sae(folder, 3, k=2)) == 2


def test_k_of_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert active(load_sae(".", 3)) == ACTIVE


def test_an_unknown_k_is_refused(folder: Path) -> None:
    unnamed = folder.rename(folder.parent / "saes")
    with pytest.raises(ValueError, match=r"not part of the name.*L0_50.*Pass k="):
        load_sae(unnamed, 3)
    assert active(load_sae(unnamed, 3, k=4)) == 4


@pytest.mark.parametrize("k", [0, -1, K + 1])
def test_a_k_that_does_not_fit_is_refused(folder: Path, k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} does not fit a dictionary of {K}"):
        load_sae(folder, 3, k=k)


# Files that are missing


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a local folder nor a Hugging Face repository"):
        load_sae(tmp_path / "nowhere-L0_50", 3)


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is a file; pass the folder"):
        load_sae(folder / "layer3.sae.pt", 3)


def test_a_folder_without_saes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No SAE found in .*layer0\.sae\.pt"):
        load_sae(tmp_path, 3)


@pytest.mark.parametrize("layer", [-1, 4, 28])
def test_a_layer_out_of_range_is_refused(folder: Path, layer: int) -> None:
    with pytest.raises(FileNotFoundError, match=f"no SAE for layer {layer}; it has layers 2-3, 5"):
        load_sae(folder, layer)


# Files that are not what they should be


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    path = folder / "layer3.sae.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"layer3\.sae\.pt is not a complete PyTorch file.*download it again"):
        load_sae(folder, 3)


@pytest.mark.parametrize(
    "contents",
    [
        {"encoder.weight": torch.zeros(K, D), "encoder.bias": torch.zeros(K)},
        {key: value for key, value in published_tensors().items() if key != "b_dec"},
        {**published_tensors(), "b_enc": [0.0] * K},
        [torch.zeros(K, D)],
        torch.zeros(K, D),
    ],
    ids=["another format", "a key short", "a list for a tensor", "a list", "a tensor"],
)
def test_wrong_keys_are_refused(folder: Path, contents: object) -> None:
    write(folder, contents)
    with pytest.raises(ValueError, match=r"layer3\.sae\.pt contains .*W_enc.*W_dec.*b_enc.*b_dec"):
        load_sae(folder, 3)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("W_dec", torch.zeros(K, D)),  # SAELens orientation
        ("W_dec", torch.zeros(D, K + 1)),
        ("b_enc", torch.zeros(D)),
        ("b_dec", torch.zeros(D, 1)),
        ("W_enc", torch.zeros(K)),
    ],
    ids=["turned decoder", "wider decoder", "encoder bias", "decoder bias", "flat encoder"],
)
def test_wrong_shapes_are_refused(folder: Path, key: str, tensor: Tensor) -> None:
    write(folder, {**published_tensors(), key: tensor})
    with pytest.raises(ValueError, match=rf"{key} has shape"):
        load_sae(folder, 3)


def test_another_models_residual_is_refused(folder: Path) -> None:
    sae = load_sae(folder, 3)
    for read in (sae.pre_activations, sae.encode):
        with pytest.raises(ValueError, match=rf"8 wide, but this SAE .*layer 3\) reads {D}"):
            read(torch.zeros(2, 8))


@pytest.mark.parametrize("feature", [-1, K])
def test_a_feature_out_of_range_is_refused(folder: Path, feature: int) -> None:
    sae = load_sae(folder, 3)
    with pytest.raises(ValueError, match=f"Feature {feature} is out of range.*0 to {K - 1}"):
        sae.direction(feature)
    with pytest.raises(ValueError, match=f"Feature {feature} is out of range.*0 to {K - 1}"):
        sae.pre_activations(torch.zeros(D), [0, feature])


class Malicious:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("as_torch_file", [True, False], ids=["PyTorch file", "bare pickle"])
def test_a_malicious_file_is_refused_and_not_executed(folder: Path, as_torch_file: bool) -> None:
    mark = folder / "executed"
    contents = {**published_tensors(), "extra": Malicious(mark)}
    if as_torch_file:
        write(folder, contents)
    else:
        (folder / "layer3.sae.pt").write_bytes(pickle.dumps(contents))
    assert b"mkdir" in (folder / "layer3.sae.pt").read_bytes()
    with pytest.raises(ValueError, match=r"layer3\.sae\.pt"):
        load_sae(folder, 3)
    assert not mark.exists()
