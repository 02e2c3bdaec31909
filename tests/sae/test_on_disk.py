"""What lies on disk otherwise than published: numbers of 8 bits, and folders that are links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_saes import LAYER, PUBLISHED

from sae_posttrain.sae import load_sae
from sae_posttrain.sae.formats import available_layers


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    one = PUBLISHED["SAELens jumprelu"]
    path = replace(one, tensors={name: tensor.to(dtype) for name, tensor in one.tensors.items()}).write(tmp_path)
    with pytest.raises(ValueError, match=rf"{path.name}: \w+ is a {dtype} tensor .*in float16, bfloat16, float32"):
        load_sae(tmp_path, LAYER)


def test_folders_of_layers_may_be_links_and_even_run_in_circles(tmp_path: Path) -> None:
    one = PUBLISHED["sparsify"]
    folder = one.write(tmp_path / "elsewhere").parent
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / folder.name).symlink_to(folder)
    assert load_sae(tmp_path / "set", LAYER).layer == LAYER
    assert available_layers(tmp_path / "set") == [LAYER]
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "again").symlink_to(tmp_path / "circle")
    with pytest.raises(FileNotFoundError, match="No SAE found"):
        load_sae(tmp_path / "circle", LAYER)
