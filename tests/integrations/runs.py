"""What the tests of all frameworks share: a tiny model and data on disk, the expected gradient, and the table.

A framework is run by its own command line, so everything passes through files: the model's folder, a feature set, rows
of messages; and then the folder with the trained weights. In one step of SGD with rate 1 and no clipping, each weight
moves by minus its gradient. Needs neither TRL nor a fixture of pytest.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from made_features import hand_made_features
from safetensors.torch import load_file
from torch import Tensor, nn
from training.sasft.reference import auxiliary, gradients, token_auxiliary
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sae_posttrain.feature_set import FeatureSet
from sae_posttrain.lab.shared.lexicon import LANGUAGES
from sae_posttrain.lab.shared.tokenizer import build_tokenizer
from sae_posttrain.lab.switching.questions import questions
from sae_posttrain.residual import decoder_blocks

WEIGHT, TOKEN_WEIGHT = 0.1, 13.0  # each term then adds about as much as the cross-entropy has
SUPPRESS = ("zh", "ru")
LAYERS, WIDTH, BLOCKS = (0, 1), 16, 3
NUM_ROWS = 8
SCRIPTS = {"zh": "CJK UNIFIED", "ru": "CYRILLIC", "ko": "HANGUL"}

TERMS: Mapping[str, tuple[float, float]] = {"features": (WEIGHT, 0.0), "tokens": (0.0, TOKEN_WEIGHT)}
"""Term → the weights with which it is the only one that adds to the gradient."""

Gradient = dict[str, Tensor]
Example = tuple[list[int], list[int], str]
"""Token ids, labels (-100: none), and the language."""


@dataclass(frozen=True)
class Case:
    """A folder with all that a run needs."""

    folder: Path

    @property
    def model(self) -> Path:
        """A tiny Qwen3 in float32 with the lab's tokenizer and chat template."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """A LoRA adapter for it, with random B matrices: with the usual zeros, A would have no gradient."""
        return self.folder / "adapter"

    @property
    def features(self) -> Path:
        return self.folder / "features.safetensors"

    @property
    def label_features(self) -> Path:
        """The same features, which stand for labels."""
        return self.folder / "label_features.safetensors"

    @property
    def rows(self) -> Path:
        """JSON lines with `messages`, `language` and, under another name, the same as a label: `kind`."""
        return self.folder / "rows.jsonl"

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.rows.read_text(encoding="utf-8").splitlines()]

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.model)


def build_case(folder: Path) -> Case:
    """Write the files; each call writes the same."""
    case = Case(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(case.model)
    _model(tokenizer).save_pretrained(case.model)
    features = hand_made_features(LAYERS, WIDTH, BLOCKS, LANGUAGES)
    features.save(case.features)
    by_label = [
        replace(
            layer,
            targets=tuple(label_of(code) for code in layer.targets),
            **{
                name: {label_of(code): values for code, values in getattr(layer, name).items()}
                for name in ("baselines", "activations")
            },
        )
        for layer in features.layers
    ]
    replace(features, layers=tuple(by_label)).save(case.label_features)
    rows = [
        {
            **{"messages": [*row["prompt"], *row["completion"]], "language": row["language"]},
            **{"kind": label_of(row["language"])},
        }
        for row in questions(NUM_ROWS, seed=5, noise=0.3)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    case.rows.write_text("".join(lines), encoding="utf-8")
    return case


def label_of(code: str) -> str:
    """The label that stands for a language in training by label."""
    return f"as in {code}"


def check_labels(
    case: Case, train: Train, *, column: str, by_language: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """By label, a framework must train what it trains by language, bit for bit.

    Args:
        case: the files.
        train: runs the framework.
        column: what the framework's setting for the column of labels is.
        by_language: settings of the run by language alone.
    """
    theirs = settings_of(case, WEIGHT, None)
    ours = theirs | {
        "sasft_features": str(case.label_features),
        "sasft_suppress": [label_of(code) for code in SUPPRESS],
    }
    wanted = train("by language", {**theirs, **by_language})
    found = train("by label", {**ours, "sasft_label_column": column})
    assert alike(wanted, found)
    assert not alike(wanted, train("without labels", None))


def add_adapter(case: Case) -> None:
    """Write the adapter; apart, since it needs PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    config.task_type = "CAUSAL_LM"
    get_peft_model(AutoModelForCausalLM.from_pretrained(case.model), config).save_pretrained(case.adapter)


def _model(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    torch.manual_seed(1)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.3,  # so large that the auxiliary terms can be seen
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def answers(case: Case, *, end: bool = True) -> list[Example]:
    """The rows in their order, with labels on the answer's tokens.

    Args:
        case: the files.
        end: whether the marker that ends an answer has a label too.
    """
    tokenizer = case.tokenizer()
    examples = []
    for row in case.messages():
        prompt = _ids(tokenizer, row["messages"][:-1], add_generation_prompt=True)
        ids = _ids(tokenizer, row["messages"])
        assert ids[: len(prompt)] == prompt
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        if not end:
            labels[-1] = -100
        examples.append((ids, labels, row["language"]))
    return examples


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Ids of the words of each language with a script of its own."""

    def is_written_in(script: str, word: str) -> bool:
        return any(unicodedata.name(sign, "").startswith(script) for sign in word)

    vocabulary = tokenizer.get_vocab()
    return {
        code: sorted(number for word, number in vocabulary.items() if is_written_in(script, word))
        for code, script in SCRIPTS.items()
    }


def expected(
    case: Case,
    examples: Sequence[Example],
    weight: float,
    token_weight: float = 0.0,
    *,
    parts: int = 1,
    adapter: bool = False,
) -> Gradient:
    """The gradient by hand, one example at a time: (sum NLL + weighted auxiliaries) / labelled tokens.

    Args:
        case: the files.
        examples: all of one optimizer step.
        weight: of the feature term; 0 leaves it out.
        token_weight: of the token term; 0 leaves it out.
        parts: into how many equal parts, in the order of the examples, the step is split where each takes the mean over
            its own tokens, and the step is the mean of those.
        adapter: train the saved adapter, and not the model.

    Returns:
        name of each trained tensor in its file → gradient.
    """
    features, tokens = FeatureSet.load(case.features), tokens_of(case.tokenizer())

    def loss_of(residuals: Mapping[int, Tensor], logits: Tensor, labels: Tensor, language: Any) -> Tensor:
        total = weight * auxiliary(residuals, labels, language, features, SUPPRESS) if weight else torch.zeros(())
        if token_weight:
            total = total + token_weight * token_auxiliary(logits, labels, language, tokens, SUPPRESS)
        return total

    model = _trained_model(case, adapter)
    size = len(examples) // parts
    each = [
        gradients(model, list(decoder_blocks(model)), examples[start : start + size], loss_of)
        for start in range(0, len(examples), size)
    ]
    found = {name: sum((one[name] for one in each), torch.zeros(())) / len(each) for name in each[0]}
    return {_name_in_file(name): value for name, value in found.items()}


def _trained_model(case: Case, adapter: bool) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(case.model, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, case.adapter, is_trainable=True)
    return model


def _name_in_file(name: str) -> str:
    return name.replace(".default.", ".")


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's or an adapter's folder, in float32 as they were saved."""
    files = sorted(folder.glob("*.safetensors"))
    assert files, f"no weights in {folder}: {sorted(path.name for path in folder.iterdir())}"
    tensors = {name: value for file in files for name, value in load_file(file).items()}
    assert all(value.dtype == torch.float32 for value in tensors.values())
    return tensors


def moved(before: Path, after: Path) -> Gradient:
    """What the step did to every weight, turned round: its gradient."""
    start, end = weights_of(before), weights_of(after)
    return {name: value - end[name] for name, value in start.items() if name in end}


def difference(whole: Gradient, plain: Gradient) -> Gradient:
    return {name: whole[name] - plain[name] for name in plain}


def relative_error(found: Gradient, wanted: Gradient) -> float:
    """‖found − wanted‖ / ‖wanted‖ over all tensors that are trained."""
    distance = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return (distance / sum(float(value.square().sum()) for value in wanted.values())) ** 0.5


Train = Callable[[str, Mapping[str, Any] | None], Path]
"""Runs the framework's command with SASFT's settings, or without SASFT: a name for the run → the folder of weights."""


def settings_of(case: Case, weight: float, token_weight: float | None) -> dict[str, Any]:
    """SASFT's settings for a run, as a framework's configuration has them."""
    settings: dict[str, Any] = {
        "sasft_features": str(case.features),
        "sasft_suppress": list(SUPPRESS),
        "sasft_weight": weight,
    }
    return settings if token_weight is None else {**settings, "sasft_token_weight": token_weight}


def measure(
    case: Case,
    train: Train,
    examples: Sequence[Example],
    *,
    parts: int = 1,
    adapter: bool = False,
) -> dict[str, float | str]:
    """Column of the table → cell: what each term adds to the gradient, and whether weight 0 changes nothing.

    Two runs of one step from the same weights differ by the auxiliary gradient alone. The run without SASFT is also
    compared with its own gradient by hand, since two runs that both missed a setting would agree.
    """
    before = case.adapter if adapter else case.model
    without = train("without", None)
    measured = train("measured", settings_of(case, 0.0, 0.0))
    plain, by_hand = moved(before, without), expected(case, examples, 0.0, parts=parts, adapter=adapter)
    cells: dict[str, float | str] = {}
    for term, (weight, token_weight) in TERMS.items():
        after = train(term, settings_of(case, weight, token_weight or None))
        added = difference(moved(before, after), plain)
        wanted = expected(case, examples, weight, token_weight, parts=parts, adapter=adapter)
        cells[term] = relative_error(added, difference(wanted, by_hand))
    cells["weight 0"] = "bit-identical" if alike(without, measured) else "differs"
    cells["the framework's own gradient"] = relative_error(plain, by_hand)
    return cells


def alike(one: Path, other: Path) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
