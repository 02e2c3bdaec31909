"""SAELens settings that change what an SAE encodes are done or refused, never ignored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_saes import LAYER, PUBLISHED, D, Published
from torch.testing import assert_close

from sae_posttrain import SparseAutoencoder, load_sae


def load(name: str, tmp_path: Path, **settings: object) -> tuple[Published, SparseAutoencoder]:
    one = PUBLISHED[name]
    assert one.config
    changed = replace(one, config=(one.config[0], {**one.config[1], **settings}))
    changed.write(tmp_path)
    return one, load_sae(tmp_path, LAYER)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("SAELens standard", {"activation_fn_str": "tanh-relu"}, "activation_fn_str is 'tanh-relu'"),
        ("SAELens gated", {"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        ("SAELens standard", {"activation_fn_str": "gelu"}, "this library reads None, 'relu', 'topk'"),
        ("SAELens standard", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor is set"),
        ("SAELens topk", {"metadata": {"finetuning_scaling_factor": True}}, "finetuning_scaling_factor is set"),
    ],
)
def test_a_setting_that_is_not_done_is_refused(
    name: str, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"finetuning_scaling_factor": False},
        {"activation_fn": "relu"},
        {"activation_fn_str": "relu", "noise_scale": 0.1},
    ],
)
def test_settings_that_change_nothing_are_read(settings: dict[str, object], tmp_path: Path) -> None:
    one, sae = load("SAELens standard", tmp_path, **settings)
    residual_BD = torch.randn(16, D)
    assert_close(sae.encode(residual_BD), one.expected(residual_BD)[0])
