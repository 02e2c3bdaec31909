"""Every published layout, by its small likeness: recognised, computed as its publisher computes it, folded, mapped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_saes import ACTIVE, HOOK, LAYER, PUBLISHED, D, K, Published, at_layer, write_tensors
from torch.testing import assert_close

from sae_posttrain.sae import SparseAutoencoder, load_sae

ONE_OF_EACH = list({one.format: one for one in PUBLISHED.values()}.values())
WITH_SETTINGS = [one for one in ONE_OF_EACH if one.config]


def by_name(one: Published) -> str:
    return one.format


@pytest.fixture(params=PUBLISHED.values(), ids=PUBLISHED)
def published(request: pytest.FixtureRequest) -> Published:
    return request.param


def load(one: Published, root: Path, layer: int = LAYER, **kwargs: object) -> SparseAutoencoder:
    root = root / f"set-L0_{ACTIVE}"
    one.write(root)
    return load_sae(root, layer, **kwargs)


def residuals(rows: int = 64) -> torch.Tensor:
    return 3 * torch.randn(rows, D, generator=torch.Generator().manual_seed(7)) + 1


def test_activations_and_reconstruction_are_those_of_the_publisher(published: Published, tmp_path: Path) -> None:
    sae, residual_ND = load(published, tmp_path), residuals()
    activations, reconstruction = published.expected(residual_ND)
    assert 0 < (activations > 0).float().mean() < 1
    assert_close(sae.encode(residual_ND), activations, atol=1e-5, rtol=1e-5)
    assert_close(sae.reconstruct(residual_ND), reconstruction, atol=1e-5, rtol=1e-5)
    assert (sae.format, sae.layer, sae.d_model, sae.d_sae) == (published.format, LAYER, D, K)


def test_a_few_features_read_the_same_folded_or_not(published: Published, tmp_path: Path) -> None:
    sae, residual_ND, few = load(published, tmp_path), residuals(), [7, 0]
    pre_NF = sae.pre_activations(residual_ND, few)
    assert_close(pre_NF, sae.pre_activations(residual_ND)[:, few])
    if sae.input_norm != "none":
        with pytest.raises(ValueError, match="normalises each token"):
            sae.folded(few)
        return
    rows_FD, bias_F = sae.folded(few)
    assert_close(residual_ND.double() @ rows_FD.T + bias_F, pre_NF.double(), atol=1e-4, rtol=1e-5)


def test_a_direction_is_what_a_unit_of_activation_adds(published: Published, tmp_path: Path) -> None:
    sae = load(published, tmp_path)
    if sae.input_norm != "none":
        with pytest.raises(ValueError, match="Call reconstruct"):
            sae.decode(torch.zeros(K))
        return
    difference_KD = sae.decode(torch.eye(K)) - sae.decode(torch.zeros(K))
    assert_close(sae.direction([7, 0]), difference_KD[[7, 0]], atol=1e-5, rtol=1e-5)
    assert_close(sae.direction(7), difference_KD[7], atol=1e-5, rtol=1e-5)


def test_a_cast_computes_about_the_same(published: Published, tmp_path: Path) -> None:
    sae = load(published, tmp_path, dtype=torch.float64)
    activations, reconstruction = sae.encode(residuals()), sae.reconstruct(residuals())
    assert activations.dtype == reconstruction.dtype == torch.float64
    assert_close(activations.float(), published.expected(residuals())[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("one", ONE_OF_EACH, ids=by_name)
def test_weights_stay_in_the_file_until_they_are_read(one: Published, tmp_path: Path) -> None:
    path = one.write(tmp_path / f"L0_{ACTIVE}")
    before = path.read_bytes()
    sae = load_sae(tmp_path / f"L0_{ACTIVE}", LAYER)
    decoder = next(name for name in one.tensors if re.fullmatch(r"W_D|w_dec|decoder\.weight", name, re.IGNORECASE))
    stored = one.tensors[decoder].contiguous().numpy().tobytes()
    with path.open("r+b") as file:  # the same file, so the mapping sees it; what was read before would not
        file.seek(before.index(stored))
        file.write(bytes(len(stored)))
    assert torch.equal(sae.decoder, torch.zeros(K, D))
    sae.encoder.zero_()
    assert len(path.read_bytes()) == len(before)
    assert path.read_bytes().replace(bytes(len(stored)), stored, 1) == before  # nothing was written to the file


@pytest.mark.parametrize("one", WITH_SETTINGS, ids=by_name)
def test_the_layer_stands_in_the_settings_too(one: Published, tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    replace(one, folder="").write(folder)
    assert load_sae(folder, LAYER).layer == LAYER
    if one.format != "sparsify":  # which writes it nowhere
        with pytest.raises(FileNotFoundError, match=f"no SAE for layer 9; it has layers {LAYER}"):
            load_sae(folder, 9)


@pytest.mark.parametrize("one", [o for o in WITH_SETTINGS if o.format != "sparsify"], ids=by_name)
def test_a_path_that_contradicts_the_settings_is_refused(one: Published, tmp_path: Path) -> None:
    replace(one, folder=at_layer(one, 2).folder).write(tmp_path)
    with pytest.raises(ValueError, match=f"in the folder of layer 2, but its settings say layer {LAYER}"):
        load_sae(tmp_path, 2)


@pytest.mark.parametrize("one", ONE_OF_EACH, ids=by_name)
def test_several_layers_in_one_folder(one: Published, tmp_path: Path) -> None:
    root, other = tmp_path / f"set-L0_{ACTIVE}", at_layer(one, 1)
    one.write(root)
    replace(other, tensors={name: t + 1 if t.dim() == 2 else t for name, t in other.tensors.items()}).write(root)
    assert_close(load_sae(root, 1).encoder, load_sae(root, LAYER).encoder + 1)
    with pytest.raises(FileNotFoundError, match=f"no SAE for layer 0; it has layers 1, {LAYER}"):
        load_sae(root, 0)


# What cannot be used


def changed(one: Published, **settings: object) -> Published:
    assert one.config
    return replace(one, config=(one.config[0], {**one.config[1], **settings}))


REFUSED = {
    "SAELens attention": (changed(PUBLISHED["SAELens topk"], reshape_activations="hook_z"), "attention heads"),
    "SAELens mlp": (
        changed(PUBLISHED["SAELens topk"], metadata={"hook_name": "blocks.3.hook_mlp_out"}),
        "residual stream",
    ),
    "SAELens embedding": (
        changed(PUBLISHED["SAELens topk"], metadata={"hook_name": "blocks.0.hook_resid_pre"}),
        "residual stream",
    ),
    "SAELens transcoder": (changed(PUBLISHED["SAELens topk"], architecture="transcoder"), "'standard', 'topk'"),
    "SAELens whitening": (
        changed(PUBLISHED["SAELens topk"], normalize_activations="covariance_whitening"),
        "'layer_norm'",
    ),
    "SAELens scale missing": (
        changed(PUBLISHED["SAELens topk"], normalize_activations="expected_average_only_in"),
        r"activation_scaler\.json, is missing",
    ),
    "SAELens without k": (changed(PUBLISHED["SAELens topk"], k=None), "k is None"),
    "SAELens k of 4.9": (changed(PUBLISHED["SAELens topk"], k=4.9), "k is 4.9; expected a whole number"),
    "SAELens of another size": (changed(PUBLISHED["SAELens topk"], d_sae=7), "d_sae=7"),
    "Gemma Scope 2 mlp": (
        changed(PUBLISHED["Gemma Scope 2"], hf_hook_point_in="model.layers.3.post_feedforward_layernorm.output"),
        "residual stream",
    ),
    "Llama Scope transcoder": (
        changed(PUBLISHED["Llama Scope"], hook_point_out="blocks.3.hook_mlp_out"),
        "transcoder",
    ),
    "Llama Scope per token": (changed(PUBLISHED["Llama Scope"], norm_activation="token-wise"), "'dataset-wise'"),
    "llamascopium GLU": (changed(PUBLISHED["llamascopium topk"], use_glu_encoder=True), "gated encoder"),
    "llamascopium clt": (changed(PUBLISHED["llamascopium topk"], sae_type="clt"), "sae_type is 'clt'"),
    "llamascopium batchtopk": (changed(PUBLISHED["llamascopium topk"], act_fn="batchtopk"), "'jumprelu'"),
    "sparsify transcoder": (changed(PUBLISHED["sparsify"], transcode=True), "transcode is set"),
    "sparsify of another width": (changed(PUBLISHED["sparsify"], d_in=99), f"d_in=99; the weights are of width {D}"),
    "sparsify groupmax": (changed(PUBLISHED["sparsify"], activation="groupmax"), "'topk'"),
    "dictionary_learning class": (
        changed(PUBLISHED["dictionary_learning BatchTopK"], trainer={"dict_class": "IdentityDict", "layer": 3}),
        "AutoEncoderTopK",
    ),
    "dictionary_learning mlp": (
        changed(
            PUBLISHED["dictionary_learning BatchTopK"],
            trainer={"dict_class": "BatchTopKSAE", "layer": 3, "submodule_name": "mlp_out_layer_3"},
        ),
        "residual stream",
    ),
}


@pytest.mark.parametrize("place", ["gemma-scope-2b-pt-transcoders", "gemma-scope-9b-pt-mlp", "gemma-scope-2b-pt-att"])
def test_gemma_scopes_of_other_places_are_refused(place: str, tmp_path: Path) -> None:
    one = PUBLISHED["Gemma Scope"]
    one.write(tmp_path / place)
    (tmp_path / "renamed").symlink_to(tmp_path / place)
    for source in (tmp_path / place, tmp_path / place / one.folder, tmp_path / "renamed", tmp_path):
        with pytest.raises(ValueError, match="only SAEs of the residual stream"):
            load_sae(source, LAYER)
    one.write(tmp_path / "gemma-scope-2b-pt-res")
    (tmp_path / "renamed").unlink()
    assert "-res/" in load_sae(tmp_path, LAYER).file


@pytest.mark.parametrize(("one", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_is_refused(one: Published, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        load(one, tmp_path)


def test_the_input_of_a_block_is_the_output_of_the_one_before(tmp_path: Path) -> None:
    one = changed(PUBLISHED["SAELens topk"], metadata={"hook_name": f"blocks.{LAYER + 1}.hook_resid_pre"})
    assert load(replace(one, folder="blocks.4.hook_resid_pre"), tmp_path).layer == LAYER


@pytest.mark.parametrize("hook", [f"model.layers.{LAYER}", f"transformer.h.{LAYER}", HOOK])
def test_hooks_of_both_libraries_are_read(hook: str, tmp_path: Path) -> None:
    assert load(changed(PUBLISHED["SAELens topk"], metadata={"hook_name": hook}), tmp_path).layer == LAYER


def test_settings_of_saelens_before_version_6(tmp_path: Path) -> None:
    new = PUBLISHED["SAELens topk"]
    old = {
        **{"d_in": D, "d_sae": K, "hook_point": HOOK, "hook_point_layer": LAYER, "model_name": "gemma-2b"},
        **{"activation_fn_str": "topk", "activation_fn_kwargs": {"k": ACTIVE}, "normalize_activations": False},
    }
    sae = load(replace(new, config=("cfg.json", old)), tmp_path)
    assert_close(sae.encode(residuals()), new.expected(residuals())[0])
    assert sae.base_model == "gemma-2b"


def test_the_scale_of_a_training_checkpoint_of_saelens(tmp_path: Path) -> None:
    one = changed(PUBLISHED["SAELens topk"], normalize_activations="expected_average_only_in")
    folder = one.write(tmp_path).parent
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5}', encoding="utf-8")
    sae = load_sae(tmp_path, LAYER)
    activations, reconstruction = one.expected(residuals() * 0.5)
    assert_close(sae.encode(residuals()), activations)
    assert_close(sae.reconstruct(residuals()), reconstruction / 0.5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["SAELens jumprelu", "Gemma Scope", "Llama Scope", "dictionary_learning BatchTopK"])
def test_a_k_where_there_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no fixed number of active features"):
        load(PUBLISHED[name], tmp_path, k=3)


@pytest.mark.parametrize("name", ["SAELens topk", "llamascopium topk", "sparsify"])
def test_a_k_as_an_argument_goes_before_the_settings(name: str, tmp_path: Path) -> None:
    assert (load(PUBLISHED[name], tmp_path, k=2).encode(residuals()) > 0).sum(-1).max() == 2


def test_a_compressed_npz_is_read_whole(tmp_path: Path) -> None:
    import numpy as np

    one = PUBLISHED["Gemma Scope"]
    np.savez_compressed(one.write(tmp_path), **{name: tensor.numpy() for name, tensor in one.tensors.items()})
    assert_close(load_sae(tmp_path, LAYER).encode(residuals()), one.expected(residuals())[0])


# Folders that are no set of SAEs, or too much of one


def test_what_was_looked_for_is_listed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="No SAE found in") as caught:
        load_sae(tmp_path, 0)
    for part in ("layer0.sae.pt", "cfg.json beside sae_weights.safetensors", "params.npz", "hyperparams.json", "ae.pt"):
        assert part in str(caught.value)


def test_several_saes_of_a_layer_are_listed(tmp_path: Path) -> None:
    one = PUBLISHED["Gemma Scope"]
    one.write(tmp_path)
    replace(one, folder=one.folder.replace("l0_5", "l0_99")).write(tmp_path)
    with pytest.raises(ValueError, match=r"2 SAEs for layer 3; add the folder.*average_l0_5/.*average_l0_99/"):
        load_sae(tmp_path, LAYER)
    assert load_sae(tmp_path / one.folder, LAYER).layer == LAYER
    assert load_sae(f"{tmp_path}/layer_{{layer}}/width_16k/average_l0_99", LAYER).layer == LAYER


def test_two_formats_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    PUBLISHED["Gemma Scope"].write(tmp_path)
    PUBLISHED["Qwen-Scope"].write(tmp_path)
    with pytest.raises(ValueError, match=r"2 SAEs for layer 3.*layer3\.sae\.pt \(Qwen-Scope\).*\(Gemma Scope\)"):
        load_sae(tmp_path, LAYER)


def test_one_that_reads_something_else_is_passed_over(tmp_path: Path) -> None:
    one = PUBLISHED["SAELens topk"]
    replace(changed(one, metadata={"hook_name": "blocks.3.hook_mlp_out"}), folder="a").write(tmp_path)
    replace(one, folder="b").write(tmp_path)
    assert Path(load_sae(tmp_path, LAYER).file).parent.name == "b"


def test_coders_of_other_places_are_passed_over_and_refused(tmp_path: Path) -> None:
    one = PUBLISHED["sparsify"]
    for folder in (f"layers.{LAYER}.mlp", f"layers.{LAYER}", "embed_tokens"):
        replace(one, folder=folder).write(tmp_path)
    assert Path(load_sae(tmp_path, LAYER).file).parent.name == f"layers.{LAYER}"
    with pytest.raises(ValueError, match=r"reads 'layers\.3\.mlp'; only SAEs of the residual stream"):
        load_sae(tmp_path / f"layers.{LAYER}.mlp", LAYER)


def test_where_nothing_says_the_layer_whoever_asks_knows(tmp_path: Path) -> None:
    replace(PUBLISHED["Gemma Scope"], folder="downloaded").write(tmp_path)
    assert load_sae(tmp_path, 17).layer == 17


def test_a_file_of_settings_without_weights_is_no_sae(tmp_path: Path) -> None:
    PUBLISHED["sparsify"].write(tmp_path).unlink()
    with pytest.raises(FileNotFoundError, match="No SAE found"):
        load_sae(tmp_path, LAYER)


@pytest.mark.parametrize("one", ONE_OF_EACH, ids=by_name)
def test_a_missing_tensor_is_named(one: Published, tmp_path: Path) -> None:
    path = one.write(tmp_path / f"L0_{ACTIVE}")
    _, *kept = one.tensors
    write_tensors(path, {name: one.tensors[name] for name in kept})
    with pytest.raises(ValueError, match=rf"{path.name}.*not found"):
        load_sae(tmp_path / f"L0_{ACTIVE}", LAYER)


def test_matrices_of_different_precision_are_refused(tmp_path: Path) -> None:
    one = PUBLISHED["sparsify"]
    replace(one, tensors={**one.tensors, "W_dec": one.tensors["W_dec"].half()}).write(tmp_path)
    with pytest.raises(ValueError, match=r"encoder has dtype torch\.float32, and the decoder torch\.float16"):
        load_sae(tmp_path, LAYER)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        *("SAELens topk, rescaled", "Llama Scope", "dictionary_learning AutoEncoder"),
        *("llamascopium topk", "llamascopium jumprelu"),
    ],
)
def test_a_direction_of_length_zero_does_no_harm_in_half_precision(
    name: str, stored: torch.dtype, tmp_path: Path
) -> None:
    one = PUBLISHED[name]
    tensors = {key: tensor.to(stored) if tensor.dim() == 2 else tensor for key, tensor in one.tensors.items()}
    (decoder,) = (key for key in tensors if re.fullmatch(r"W_D(ec)?|decoder\.weight", key, re.IGNORECASE))
    tensors[decoder][(0, ...) if tensors[decoder].shape == (K, D) else (..., 0)] = 0
    sae = load(replace(one, tensors=tensors), tmp_path, dtype=torch.float16)
    assert sae.reconstruct(residuals()).isfinite().all()
    assert torch.equal(sae.direction(0), torch.zeros(D, dtype=torch.float16))


def test_vectors_take_the_precision_of_the_matrices(tmp_path: Path) -> None:
    one = PUBLISHED["SAELens jumprelu"]
    half = {name: t.bfloat16() if t.dim() == 2 else t for name, t in one.tensors.items()}
    replace(one, tensors=half).write(tmp_path)
    sae = load_sae(tmp_path, LAYER)
    assert sae.encode(residuals()).dtype == sae.reconstruct(residuals()).dtype == torch.bfloat16
