"""Which tokens count as leaving, in a byte-level vocabulary that cuts characters."""

from __future__ import annotations

import pytest
import torch
from tiny_models import qwen3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_posttrain.expected import Setting, switch_probabilities
from sae_posttrain.expected.columns import ScriptColumns, unexpected_in
from sae_posttrain.vocabulary import token_scripts


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Single bytes, and one Han character as a whole."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=258, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["你" * 100], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_letter_that_is_only_begun_is_told_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    model, table = qwen3(len(tokenizer)).eval(), token_scripts(tokenizer)
    ids = tokenizer("abc")["input_ids"]
    with torch.no_grad():
        chances_SV = model(torch.tensor([ids])).logits[0, :-1].softmax(-1)
    held, whole = (
        float(1 - (1 - chances_SV @ table.mask(["Hani"], begun=begun).float()).prod()) for begun in (True, False)
    )
    assert held > whole > 0
    (one,) = switch_probabilities(model, tokenizer, ["a"], ["bc"], "en", to="zh", progress=False)[Setting()]
    assert one is not None
    assert one.any == pytest.approx(held, abs=1e-6)
    assert one.begun == pytest.approx(held - whole, abs=1e-6)
    # A character that the text itself begins is a quotation: only the position after it is measured.
    (quoted,) = switch_probabilities(model, tokenizer, ["a"], ["好"], "en", to="zh", progress=False)[Setting()]
    ids = tokenizer("a好")["input_ids"]
    assert len(ids) == 4
    with torch.no_grad():
        chances_SV = model(torch.tensor([ids])).logits[0, 1:-1].softmax(-1)
    held = float(1 - (1 - chances_SV @ table.mask(["Hani"]).float()).prod())
    assert quoted is not None
    assert quoted.any == pytest.approx(held, abs=1e-6)


def test_columns_of_sets_and_scripts(tokenizer: PreTrainedTokenizerFast) -> None:
    scripts = unexpected_in("en")
    columns = ScriptColumns(tokenizer, [scripts], len(tokenizer) + 5)
    assert columns.matrix_VG.shape[0] == len(tokenizer) + 5
    assert "Hani" in columns.scripts
    assert not {"Latn", "Zyyy"} & set(columns.scripts)
    ids = tokenizer("a你")["input_ids"]
    held = columns.held(ids)[:, columns.of(frozenset({"Hani"}))["Hani"]]
    assert held.tolist() == [False, True]
