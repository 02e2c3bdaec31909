"""Checkpoints made by the libraries themselves, read by them and by us: the same to 1e-5.

These need the extra `dev-oracles`; without one of its libraries, the tests against it are skipped. The layouts
themselves are tested without any, in test_formats.py.
"""

# D model width, K dictionary size, N tokens

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_saes import PUBLISHED, Published
from torch import Tensor
from torch.testing import assert_close

from sae_posttrain.sae import SparseAutoencoder, load_sae

D, K, ACTIVE, LAYER = 8, 32, 5, 3
HOOK = f"blocks.{LAYER}.hook_resid_post"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def residuals(width: int = D) -> Tensor:
    return 3 * torch.randn(100, width) + 1


@torch.no_grad()
def shake(module: torch.nn.Module) -> None:
    """Weights as after training: none of them zero, one or of unit norm."""
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))


@torch.no_grad()
def check(ours: SparseAutoencoder, theirs: Any, residual_ND: Tensor | None = None) -> None:
    """Same activations and same reconstruction as an object with `encode` and `decode`."""
    residual_ND = residuals(ours.d_model) if residual_ND is None else residual_ND
    activations = theirs.encode(residual_ND)
    assert 0 < (activations > 0).float().mean() < 1
    assert_close(ours.encode(residual_ND), activations, atol=1e-5, rtol=1e-5)
    assert_close(ours.reconstruct(residual_ND), theirs.decode(activations), atol=1e-5, rtol=1e-5)


# SAELens


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("TopK", {"k": ACTIVE}),
        ("TopK", {"k": ACTIVE, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
        ("JumpReLU", {}),
        ("JumpReLU", {"normalize_activations": "layer_norm"}),
        ("Standard", {"apply_b_dec_to_input": False}),
        ("Standard", {"normalize_activations": "constant_norm_rescale"}),
        ("Gated", {}),
    ],
)
def test_saelens(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    config = getattr(sae_lens, f"{kind}SAEConfig")(d_in=D, d_sae=K, **settings)
    config.metadata.hook_name, config.metadata.model_name = HOOK, "gemma-2-2b"
    made = getattr(sae_lens, f"{kind}SAE")(config)
    shake(made)
    made.save_model(tmp_path / HOOK)
    ours = load_sae(tmp_path, LAYER)
    assert (ours.layer, ours.base_model) == (LAYER, "gemma-2-2b")
    check(ours, sae_lens.SAE.load_from_disk(tmp_path / HOOK))


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK", "TopK", "JumpReLU"])
def test_saelens_saves_what_it_trained_for_inference(kind: str, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput

    own = {"matryoshka_widths": [K // 2, K]} if kind.startswith("Matryoshka") else {}
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=D, d_sae=K, **({} if kind == "JumpReLU" else {"k": ACTIVE}), **own
    )
    config.metadata.hook_name = HOOK
    made = getattr(sae_lens, f"{kind}TrainingSAE")(config)
    shake(made)
    for step in range(20):  # in which the threshold of a BatchTopK SAE settles
        made.training_forward_pass(
            TrainStepInput(residuals(), {"l0": 1.0}, None, n_training_steps=step, is_logging_step=False)
        )
    made.save_inference_model(tmp_path / HOOK)
    check(load_sae(tmp_path, LAYER), sae_lens.SAE.load_from_disk(tmp_path / HOOK))


def test_saelens_with_its_scale_folded_in(tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    config = sae_lens.StandardSAEConfig(d_in=D, d_sae=K, normalize_activations="expected_average_only_in")
    config.metadata.hook_name = HOOK
    made = sae_lens.StandardSAE(config)
    shake(made)
    made.save_model(tmp_path / "unfolded")
    (tmp_path / "unfolded" / "activation_scaler.json").write_text('{"scaling_factor": 0.25}', encoding="utf-8")
    made.fold_activation_norm_scaling_factor(0.25)
    made.save_model(tmp_path / "folded")
    for folder in ("unfolded", "folded"):
        check(load_sae(tmp_path / folder, LAYER), made)


# The formats for which SAELens has a loader, but no library that writes them


@pytest.mark.parametrize(
    ("name", "repository", "loader"),
    [
        ("Qwen-Scope", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "qwen_scope"),
        ("Gemma Scope", "google/gemma-scope-2b-pt-res", "gemma_2"),
        ("Gemma Scope 2", "google/gemma-scope-2-1b-pt", "gemma_3"),
    ],
)
def test_as_saelens_reads_it(
    name: str, repository: str, loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sae_lens")
    one, root = PUBLISHED[name], tmp_path / "set-L0_5"
    one.write(root)
    folder = one.folder or one.weights
    check(load_sae(root, LAYER), saelens_reads(loader, repository, folder, root, one, monkeypatch))


def test_llama_scope_as_saelens_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAELens leaves the scale in the activations, and takes directions to be of unit norm, which here they are."""
    pytest.importorskip("sae_lens")
    one = PUBLISHED["Llama Scope"]
    one.tensors["decoder.weight"] /= one.tensors["decoder.weight"].norm(dim=0)
    one.write(tmp_path)
    theirs = saelens_reads("llama_scope", "fnlp/Llama3_1-8B-Base-LXR-8x", one.folder, tmp_path, one, monkeypatch)
    ours, d_model = load_sae(tmp_path, LAYER), one.tensors["decoder.bias"].shape[0]
    scale = (
        d_model**0.5
        / json.loads((tmp_path / one.folder / "hyperparams.json").read_text())["dataset_average_activation_norm"]["in"]
    )
    theirs.fold_activation_norm_scaling_factor(scale)
    residual_ND = residuals(d_model)
    assert_close(ours.encode(residual_ND) * scale, theirs.encode(residual_ND), atol=1e-5, rtol=1e-5)
    assert_close(ours.reconstruct(residual_ND), theirs(residual_ND), atol=1e-5, rtol=1e-5)


def saelens_reads(
    loader: str, repository: str, folder: str, root: Path, one: Published, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """What SAELens makes of a checkpoint, its downloads turned to a local folder."""
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def download(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        return str(root / subfolder / filename)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    shapes = {name: list(tensor.shape) for name, tensor in one.tensors.items()}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    load = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader]
    config, state, _ = load(repository, folder, "cpu", False, {"dtype": "float32"})
    size = state["W_enc"].shape
    config = loaders.handle_config_defaulting({**config, "d_in": size[0], "d_sae": size[1]})
    kind = sae_lens.SAE.get_sae_config_class_for_architecture(config["architecture"])
    theirs = sae_lens.SAE.get_sae_class_for_architecture(config["architecture"])(kind.from_dict(config))
    theirs.load_state_dict(state)
    return theirs


# llamascopium


@pytest.mark.parametrize("norm", ["dataset-wise", "inference"])
@pytest.mark.parametrize(
    "settings",
    [
        {"act_fn": "topk", "top_k": ACTIVE},
        {"act_fn": "jumprelu"},
        {"act_fn": "jumprelu", "sparsity_include_decoder_norm": False},
        {"act_fn": "relu", "use_decoder_bias": False},
    ],
    ids=str,
)
@torch.no_grad()
def test_llamascopium(settings: dict[str, Any], norm: str, tmp_path: Path) -> None:
    library = pytest.importorskip("llamascopium.models.sae")
    config = library.SAEConfig(
        **{"d_model": D, "expansion_factor": K // D, "hook_point_in": HOOK, "hook_point_out": HOOK},
        norm_activation=norm,
        **settings,
    )
    made = library.SparseAutoEncoder(config)
    for parameter in made.parameters():
        parameter.copy_(0.5 * torch.randn_like(parameter))
    made.set_dataset_average_activation_norm({HOOK: 7.0})
    made.save_pretrained(tmp_path / "L3R")
    config.save_hyperparameters(tmp_path / "L3R")
    theirs = library.SparseAutoEncoder.from_pretrained(str(tmp_path / "L3R"))
    ours, residual_ND = load_sae(tmp_path, LAYER), residuals()
    batch, factors = theirs.normalize_activations({HOOK: residual_ND}, return_scale_factor=True)
    activations = theirs.encode(batch[HOOK])
    assert 0 < (activations > 0).float().mean() < 1
    assert_close(ours.encode(residual_ND), activations, atol=1e-5, rtol=1e-5)
    back = theirs.denormalize_activations({HOOK: theirs.decode(activations)}, factors)[HOOK]
    assert_close(ours.reconstruct(residual_ND), back, atol=1e-5, rtol=1e-5)


# sparsify, which the tests have anyway


@pytest.mark.parametrize(
    "settings", [{"num_latents": K}, {"expansion_factor": 4}, {"normalize_decoder": False}], ids=str
)
@torch.no_grad()
def test_sparsify(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparsify = pytest.importorskip("sparsify")
    made = sparsify.SparseCoder(D, sparsify.SparseCoderConfig(k=ACTIVE, **settings))
    shake(made)
    made.save_to_disk(tmp_path / f"layers.{LAYER}")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / f"layers.{LAYER}")
    ours, residual_ND = load_sae(tmp_path, LAYER), residuals()
    found = theirs.encode(residual_ND)
    activations = torch.zeros(len(residual_ND), ours.d_sae).scatter_(1, found.top_indices, found.top_acts)
    assert_close(ours.encode(residual_ND), activations, atol=1e-5, rtol=1e-5)
    back = theirs.decode(found.top_acts, found.top_indices)
    assert_close(ours.reconstruct(residual_ND), back, atol=1e-5, rtol=1e-5)


# dictionary_learning

TRAINERS: dict[str, dict[str, Any]] = {
    "StandardTrainer": {"sparsity_warmup_steps": 2},
    "StandardTrainerAprilUpdate": {"sparsity_warmup_steps": 2},
    "PAnnealTrainer": {"sparsity_warmup_steps": 2, "sparsity_function": "Lp^p", "initial_sparsity_penalty": 0.1},
    "GatedSAETrainer": {"sparsity_warmup_steps": 2},
    "TopKTrainer": {"k": ACTIVE, "threshold_start_step": 2},
    "BatchTopKTrainer": {"k": ACTIVE, "threshold_start_step": 2},
    "MatryoshkaBatchTopKTrainer": {"k": ACTIVE, "threshold_start_step": 2, "group_fractions": [0.5, 0.5]},
    "JumpReluTrainer": {"sparsity_warmup_steps": 2},
}


@pytest.mark.parametrize("name", TRAINERS)
def test_dictionary_learning(name: str, tmp_path: Path) -> None:
    pytest.importorskip("dictionary_learning")
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import (
        batch_top_k,
        gdm,
        jumprelu,
        matryoshka_batch_top_k,
        p_anneal,
        standard,
        top_k,
    )
    from dictionary_learning.training import trainSAE

    modules = (dictionary, standard, p_anneal, gdm, top_k, batch_top_k, matryoshka_batch_top_k, jumprelu)

    def named(name: str) -> Any:
        return next(getattr(module, name) for module in modules if hasattr(module, name))

    settings = {
        **{"trainer": named(name), "activation_dim": D, "dict_size": K, "layer": LAYER, "lm_name": "gemma-2-2b"},
        **{"steps": 10, "warmup_steps": 2, "lr": 1e-2, "device": "cpu", "submodule_name": f"resid_post_layer_{LAYER}"},
        **TRAINERS[name],
    }
    if name == "PAnnealTrainer":
        settings.pop("submodule_name")
    folder = tmp_path / f"resid_post_layer_{LAYER}"
    data = (3 * torch.randn(64, D) + 1 for _ in range(10))
    trainSAE(data, [settings], steps=10, use_wandb=False, save_dir=str(folder), device="cpu")
    written = json.loads((folder / "trainer_0" / "config.json").read_text(encoding="utf-8"))
    library = named(written["trainer"]["dict_class"])
    ours = load_sae(tmp_path, LAYER)
    assert ours.base_model == "gemma-2-2b"
    check(ours, library.from_pretrained(str(folder / "trainer_0" / "ae.pt")))
