"""Encoders that do not fit into an accelerator's memory together are taken in blocks of layers, with the same sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, qwen3, word_tokenizer, write_saes

from sae_posttrain import load_sae
from sae_posttrain.discovery import statistics
from sae_posttrain.discovery.statistics import blocks_of_layers, collect_statistics, encoder_room

LAYERS, DICTIONARY = 4, 24
TEXTS = {"en": ["the cat sees a house", "a house sings"], "ru": ["кошка видит дом", "дом поёт"]}


@pytest.fixture
def saes(tmp_path: Path) -> Any:
    folder = write_saes(tmp_path / f"SAE-Res-tiny-W{DICTIONARY}-L0_4", range(LAYERS), DICTIONARY, WIDTH)
    return {layer: load_sae(folder, layer) for layer in range(LAYERS)}


@pytest.mark.parametrize(
    ("fitting", "expected"),
    [
        (None, [[0, 1, 2, 3]]),
        (4, [[0, 1, 2, 3]]),
        (3, [[0, 1, 2], [3]]),
        (1, [[0], [1], [2], [3]]),
        (0.5, [[0], [1], [2], [3]]),
    ],
)
def test_blocks_hold_what_fits(saes: Any, fitting: Any, expected: Any) -> None:
    room = None if fitting is None else int(fitting * saes[0].encoder.nbytes)
    assert blocks_of_layers(saes, room) == expected


def test_encoders_stay_in_their_files_on_the_cpu() -> None:
    assert encoder_room(torch.device("cpu")) is None


def test_a_pass_for_each_block_gives_the_same_sums(saes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer((text for texts in TEXTS.values() for text in texts), "<pad>")
    model = qwen3(len(tokenizer), num_hidden_layers=LAYERS).eval()
    reads = []
    model.model.register_forward_pre_hook(lambda module, args: reads.append(1))
    whole = collect_statistics(model, tokenizer, saes, TEXTS, progress=False)
    once = len(reads)
    monkeypatch.setattr(statistics, "encoder_room", lambda device: 3 * saes[0].encoder.nbytes)
    in_blocks = collect_statistics(model, tokenizer, saes, TEXTS, progress=False)
    assert len(reads) == 3 * once
    assert list(in_blocks) == list(whole)
    for layer, of_group in whole.items():
        for group, sums in of_group.items():
            for name, value in vars(sums).items():
                assert torch.equal(getattr(in_blocks[layer][group], name), value)
