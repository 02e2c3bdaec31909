"""The examples in docstrings are run, with a tiny model, its SAEs and a feature set in place of the reader's own.

If an example shows a result, it must give this result. If it shows none, it must run without an error. The examples in
`ONLY_READ` are not run, because they train, sample for a long time, or need a server, the hub or many texts. They must
compile, use only names that exist, and call public functions with arguments that these have.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from made_features import hand_made_features
from tiny_models import qwen3, word_tokenizer, write_saes
from trl import GRPOTrainer, SFTConfig, SFTTrainer

import sae_posttrain
from sae_posttrain.expected.switching import Setting
from sae_posttrain.inspection import find_passages
from sae_posttrain.sae.activations import ReLU
from sae_posttrain.sampling import encode_prompts

ROOT = Path(__file__).parent.parent / "sae_posttrain"
ONLY_READ = {
    "calibrate": "samples hundreds of tokens at several strengths",
    "Calibration": "calls calibrate",
    "sample_loops": "samples until a model loops",
    "discover_repetition_features": "samples until a model loops",
    "load_sae": "loads from the hub",
    "VllmEngine": "needs vLLM",
    "ask_server": "asks a server",
    "server_generator": "asks a server",
    "train_saes": "trains",
    "discover_class_features": "needs many labelled texts",
    "classify": "needs the features of discover_class_features",
    "steered_rollout_func": "makes a trainer of reinforcement learning",
    "SteeredGRPOTrainer": "trains",
    "SteeredRLOOTrainer": "trains",
    "SASFTTrainer": "trains",
}
BLOCKS, LAYERS = 18, (14, 16, 17)
TEXTS = ["the cat sees the dog", "the dog sees a cat and the bird", "a bird sees the cat"]
CHINESE = ["猫 看见 狗", "狗 看见 一只 猫", "鸟 看见 猫"]


class Found(NamedTuple):
    """A docstring with an example."""

    module: str
    name: str
    docstring: str

    @property
    def test(self) -> doctest.DocTest:
        return doctest.DocTestParser().get_doctest(self.docstring, {}, self.name, self.module, 0)


def found_examples() -> dict[str, Found]:
    """Name of the class or function → its example, for the whole package."""
    found: dict[str, Found] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ">>> " in (text := ast.get_docstring(node) or ""):
                name = node.name if node.name not in found else f"{parts[-1]}.{node.name}"
                found[name] = Found(".".join(parts).removesuffix(".__init__"), name, text)
    return found


EXAMPLES = found_examples()


def test_every_public_name_has_an_example() -> None:
    assert set(sae_posttrain.__all__) <= EXAMPLES.keys()
    assert ONLY_READ.keys() <= EXAMPLES.keys()


@pytest.fixture(scope="module")
def readers_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the examples take as given, in a folder with the files that they read."""
    folder = tmp_path_factory.mktemp("examples")
    tokenizer = word_tokenizer([*TEXTS, *CHINESE, "Hello there. Bonjour à tous."], "<pad>", "<end>")
    model = qwen3(len(tokenizer), num_hidden_layers=BLOCKS, eos_token_id=1).eval()
    width = model.config.hidden_size
    features = hand_made_features(LAYERS, width, BLOCKS, ["en", "zh", "ru"])
    rows = [{"prompt": "the cat", "response": "sees the 看见 dog", "language": "en"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "saes").symlink_to(write_saes(folder / "lab-L0_8", LAYERS, d_sae=64, width=width))
        for name in ("features", "loops", "zh"):
            features.save(f"{name}.safetensors")
        for run in ("sft", "sasft"):
            (folder / "runs" / run).mkdir(parents=True)
            (folder / "runs" / run / "eval_results.json").write_text(json.dumps({"eval_loss": 1.0}))
        yield {
            **{name: getattr(sae_posttrain, name) for name in sae_posttrain.__all__},
            **{"Path": Path, "torch": torch, "Setting": Setting, "GRPOTrainer": GRPOTrainer},
            **{"encode_prompts": encode_prompts, "__file__": __file__},
            **{"model": model, "tokenizer": tokenizer, "features": features, "rows": rows},
            "trainer": sft_trainer(model, tokenizer),
            "other": sft_trainer(model, tokenizer),
            "sae": sae_posttrain.SparseAutoencoder(
                torch.randn(64, width), torch.randn(64), torch.randn(64, width), torch.randn(width), ReLU(), layer=16
            ),
            **{"texts": TEXTS, "english": TEXTS, "german": TEXTS, "chinese": CHINESE, "answers": TEXTS[:1]},
            **{"toxic": TEXTS, "clean": TEXTS},
            "prompts": TEXTS[:1],
            "two_prompts": tokenizer([TEXTS[0], TEXTS[0]], return_tensors="pt"),
            "passages": find_passages(tokenizer, rows, "zh"),
            "tokens": torch.arange(len(tokenizer)) > 10,
            **{"residual": torch.randn(2, width), "direction": torch.randn(width)},
            **{"dataset": Dataset.from_dict({"text": TEXTS}), "rewards": []},
        }


def sft_trainer(model: Any, tokenizer: Any) -> SFTTrainer:
    args = SFTConfig("out", report_to="none", use_cpu=True, bf16=False)
    data = Dataset.from_dict({"text": TEXTS})
    return SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)


def names_for(found: Found, readers_own: dict[str, Any]) -> dict[str, Any]:
    """What an example may use: what the reader has, the public names, and the names of its own module."""
    names = {**vars(importlib.import_module(found.module)), **readers_own}
    if "generate(**prompts" in found.docstring:
        names["prompts"] = names["tokenizer"](TEXTS[:1], return_tensors="pt")
    return names


class ShownResults(doctest.OutputChecker):
    """Compares results that an example shows, and accepts any result if it shows none."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - ONLY_READ.keys()))
def test_an_example_runs(name: str, readers_own: dict[str, Any]) -> None:
    test = EXAMPLES[name].test
    test.globs = names_for(EXAMPLES[name], readers_own)
    said: list[str] = []
    runner = doctest.DocTestRunner(checker=ShownResults(), optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert test.examples
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", sorted(ONLY_READ))
def test_an_example_that_is_only_read_can_be_called(name: str, readers_own: dict[str, Any]) -> None:
    known = names_for(EXAMPLES[name], readers_own)
    check_calls("".join(one.source for one in EXAMPLES[name].test.examples), known)


def check_calls(source: str, known: dict[str, Any]) -> None:
    """Names must exist, and functions and classes must take the arguments of their calls."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used <= made | known.keys() | set(dir(builtins))
    for call in (node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        assert isinstance(call.func, ast.Name)
        if (function := known.get(call.func.id)) is not None:
            given = {one.arg: None for one in call.keywords if one.arg}
            inspect.signature(function).bind(*([None] * len(call.args)), **given)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("calibrate(model, tokenizer, features, prompts, alpha=[1.0])", TypeError),
        ("calibrate(model, tokenizer, no_such_name, prompts)", AssertionError),
    ],
)
def test_an_example_with_a_mistake_is_noticed(source: str, error: type[Exception], readers_own: dict[str, Any]) -> None:
    with pytest.raises(error):
        check_calls(source, readers_own)
