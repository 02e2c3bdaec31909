"""The lab's model and SAE: tiny versions, trained for a few steps, in the layout that Qwen-Scope publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_posttrain.lab.shared.documents import counting_rhyme
from sae_posttrain.lab.shared.model import ModelSize, Stage, copying_share, held_out_loss, token_rows, train_model
from sae_posttrain.lab.shared.saes import qwen_scope_layout, train_lab_saes, unexplained_variance
from sae_posttrain.lab.shared.tokenizer import build_tokenizer
from sae_posttrain.lab.switching.documents import NURSERY, WORLD
from sae_posttrain.sae import load_sae

SIZE = ModelSize(width=16, blocks=2, heads=2, head_width=8)
STAGES = (Stage(NURSERY, row=24, batch=8, steps=5), Stage(WORLD, row=32, batch=8, steps=40))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return train_model(tokenizer, SIZE, STAGES, learning_rate=2e-2)


@pytest.fixture(scope="module")
def folder(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_lab_saes(
        model, tokenizer, tmp_path_factory.mktemp("lab"), layers=(0, 1), reading=WORLD, d_sae=64, k=4, steps=30
    )


def test_training_helps_and_is_deterministic(model: Any, tokenizer: Any) -> None:
    assert held_out_loss(model, tokenizer, WORLD) < 0.9 * torch.log(torch.tensor(float(len(tokenizer))))
    again = train_model(tokenizer, SIZE, STAGES, learning_rate=2e-2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_rows_hold_whole_rhymes(tokenizer: Any) -> None:
    rows = token_rows(tokenizer, NURSERY, 10, 24, seed=0)
    assert rows.shape == (10, 24)
    assert (rows[:, -1] == tokenizer.eos_token_id).all()
    assert (rows[:, :-1] != tokenizer.eos_token_id).all()


def test_copying_check_knows_a_copier_from_a_babbler(tokenizer: Any) -> None:
    class Copier(torch.nn.Module):
        def generate(self, shown: Any, max_new_tokens: Any, **_: Any) -> Any:
            return torch.cat([shown, shown[:, :max_new_tokens]], 1)

    class Babbler(torch.nn.Module):
        def generate(self, shown: Any, max_new_tokens: Any, **_: Any) -> Any:
            return torch.cat([shown, torch.zeros(len(shown), max_new_tokens, dtype=torch.long)], 1)

    assert copying_share(Copier(), tokenizer, trials=20) == 1
    assert copying_share(Babbler(), tokenizer, counting_rhyme, trials=20) == 0


def test_saved_files_are_qwen_scope_s(folder: Any) -> None:
    assert folder.name == "SAE-Res-lab-W64-L0_4"
    for layer in (0, 1):
        weights = torch.load(folder / f"layer{layer}.sae.pt", weights_only=True)
        assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
            "W_enc": (64, 16),
            "W_dec": (16, 64),
            "b_enc": (64,),
            "b_dec": (16,),
        }
        assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_saved_sae_computes_what_sparsify_does(tmp_path: Path) -> None:
    sparsify = pytest.importorskip("sparsify")
    torch.manual_seed(0)
    coder = sparsify.SparseCoder(16, sparsify.SparseCoderConfig(num_latents=64, k=4))
    with torch.no_grad():
        coder.b_dec.normal_()
        coder.encoder.bias.normal_()
    (tmp_path / "SAE-Res-lab-W64-L0_4").mkdir()
    torch.save(qwen_scope_layout(coder), tmp_path / "SAE-Res-lab-W64-L0_4" / "layer0.sae.pt")
    ours = load_sae(tmp_path / "SAE-Res-lab-W64-L0_4", 0)
    residual = 3 * torch.randn(50, 16)
    with torch.no_grad():
        theirs = coder(residual).sae_out
    torch.testing.assert_close(ours.decode(ours.encode(residual)), theirs, rtol=1e-4, atol=1e-4)


def test_training_leaves_the_model_trainable_and_explains_some_variance(
    model: Any, tokenizer: Any, folder: Any
) -> None:
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(0 < share < 1 for share in unexplained_variance(model, tokenizer, folder, (0, 1), WORLD).values())
