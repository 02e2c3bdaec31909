"""Train one variant (sft, sasft or random features) for one seed on a folder of texts, and measure code-switching.

Writes train.jsonl, features.safetensors, the model, responses.jsonl and results.csv into output_dir.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import ModelConfig, SFTTrainer, TrlParser, get_peft_config

from sae_posttrain import FeatureSet, SASFTConfig, SASFTTrainer, code_switching_rate, discover_language_features
from sae_posttrain.lab.shared.results import append_results
from sae_posttrain.metrics import unexpected_spans
from sae_posttrain.sampling import SamplingSettings, sample_responses
from sae_posttrain.texts import load_texts

VARIANTS = ("sft", "sasft", "random")
HELD_OUT = 10  # one paragraph in so many, by hash: the same ones for every variant and seed


@dataclass
class RecipeArguments:
    """What the recipe needs beside the trainer's own settings."""

    sae: str = field(default="", metadata={"help": "Folder or hub id of the sparse autoencoders."})
    corpus: str = field(default="", metadata={"help": "Folder with a {code}.jsonl.gz of `text` per language."})
    variant: str = field(default="sasft", metadata={"help": "sft, sasft, or random: the control."})
    languages: list[str] = field(default_factory=list, metadata={"help": "Languages to train on."})
    layers: list[int] = field(default_factory=list, metadata={"help": "0-based decoder blocks."})
    top: int = field(default=2, metadata={"help": "Features per language and layer."})
    discovery_texts: int = field(default=300, metadata={"help": "Paragraphs per language read by discovery."})
    train_texts: int = field(default=1200, metadata={"help": "Training paragraphs per language."})
    heldout_texts: int = field(default=150, metadata={"help": "Held-out paragraphs per language for the loss."})
    prompts: int = field(default=200, metadata={"help": "Held-out prompts per language."})
    top_p: list[float] = field(default_factory=list, metadata={"help": "Nucleus sizes to sample with."})
    samples: list[int] = field(default_factory=list, metadata={"help": "Answers per prompt at each of them."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest answer."})
    generation_batch_size: int = field(default=512, metadata={"help": "Answers sampled at once."})
    results: str | None = field(default=None, metadata={"help": "CSV to append to; results.csv in output_dir."})


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the recipe; returns the rows it wrote."""
    parser = TrlParser((RecipeArguments, SASFTConfig, ModelConfig))
    recipe, training, model_config = parser.parse_args_and_config(list(arguments) if arguments is not None else None)
    check(recipe, training)
    train, held_out = split_corpus(recipe)
    tokenizer = AutoTokenizer.from_pretrained(model_config.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(model_config.model_name_or_path)
    features = None if recipe.variant == "sft" else find_features(recipe, training, model, tokenizer, train)

    set_seed(training.seed)
    rows = [chat_example(text, code) for code in recipe.languages for text in train[code][: recipe.train_texts]]
    dataset = Dataset.from_list(rows)
    dataset.to_json(Path(training.output_dir) / "train.jsonl", force_ascii=False)
    common: dict[str, Any] = {
        "train_dataset": dataset,
        "processing_class": tokenizer,
        "peft_config": get_peft_config(model_config),
    }
    if features is None:
        trainer = SFTTrainer(model, training, **common)
    else:
        trainer = SASFTTrainer(model, training, features=features, **common)
    trainer.train()
    trainer.save_model(training.output_dir)

    trained = trainer.model.eval()
    losses = held_out_losses(trained, tokenizer, recipe, held_out)
    measured = list(measure(trained, tokenizer, recipe, training, held_out))
    return write(recipe, training, model_config, losses, measured)


def check(recipe: RecipeArguments, training: SASFTConfig) -> None:
    """Say what is missing before anything is loaded."""
    if recipe.variant not in VARIANTS:
        raise ValueError(f"variant={recipe.variant!r}: expected one of {', '.join(VARIANTS)}.")
    if not Path(recipe.corpus).is_dir() or not recipe.corpus:
        raise FileNotFoundError(f"corpus={recipe.corpus!r} is not a folder of CODE.jsonl.gz files.")
    missing = [code for code in training.suppress if code not in recipe.languages]
    if missing or not training.suppress:
        raise ValueError(f"suppress={training.suppress}: expected some of {', '.join(recipe.languages)}.")
    if recipe.variant != "sft" and not (training.features or recipe.sae):
        raise ValueError(f"variant={recipe.variant} needs sae, or features that were found before.")
    if len(recipe.samples) != len(recipe.top_p):
        raise ValueError(f"samples={recipe.samples} and top_p={recipe.top_p}: expected as many of one as of the other.")


def split_corpus(recipe: RecipeArguments) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Paragraphs to train on and held out, by language, each in the order of its hash."""
    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    for code in recipe.languages:
        texts = {
            hashlib.sha256(text.encode()).digest(): text for text in load_texts(f"{recipe.corpus}/{code}.jsonl.gz")
        }
        train[code], held_out[code] = [], []
        for digest in sorted(texts):
            if all(split_paragraph(texts[digest])):
                (held_out if digest[-1] % HELD_OUT == 0 else train)[code].append(texts[digest])
    return train, held_out


def split_paragraph(text: str) -> tuple[str, str]:
    """The first third and the rest, which keeps its leading space; cut at a space where one is near."""
    third = len(text) // 3
    space = text.find(" ", third, 2 * third)
    cut = third if space < 0 else space
    return text[:cut].strip(), text[cut:]


def chat_example(text: str, code: str) -> dict[str, Any]:
    prompt, answer = split_paragraph(text)
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
        "language": code,
    }


def find_features(
    recipe: RecipeArguments, training: SASFTConfig, model: Any, tokenizer: Any, train: dict[str, list[str]]
) -> FeatureSet:
    """The features of `training.features`, or new ones from training paragraphs."""
    if training.features:
        return FeatureSet.load(training.features)
    features = discover_language_features(
        model,
        tokenizer,
        recipe.sae,
        {code: train[code][: recipe.discovery_texts] for code in recipe.languages},
        layers=recipe.layers,
        top=recipe.top,
        targets=training.suppress,
        select="random" if recipe.variant == "random" else "monolinguality",
        seed=training.seed,
        batch_size=32,
    )
    features.save(Path(training.output_dir) / "features.safetensors")
    return features


@torch.no_grad()
def held_out_losses(
    model: Any, tokenizer: Any, recipe: RecipeArguments, held_out: dict[str, list[str]]
) -> dict[str, float]:
    """Plain cross-entropy of held-out answers, in nats a token: over all, and in each language."""
    summed, counted = dict.fromkeys(recipe.languages, 0.0), dict.fromkeys(recipe.languages, 0)
    for code in recipe.languages:
        for text in held_out[code][: recipe.heldout_texts]:
            example = chat_example(text, code)
            prompt = tokenizer.apply_chat_template(example["prompt"], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(example["prompt"] + example["completion"], tokenize=False)
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
            logits = model(ids).logits[0, start - 1 : -1]
            summed[code] += float(cross_entropy(logits.float(), ids[0, start:], reduction="sum"))
            counted[code] += len(logits)
    return {
        "all": sum(summed.values()) / sum(counted.values()),
        **{code: summed[code] / counted[code] for code in recipe.languages},
    }


def measure(
    model: Any, tokenizer: Any, recipe: RecipeArguments, training: SASFTConfig, held_out: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    """For each nucleus and suppressed language: how many answers to prompts in the other languages hold any of it."""
    asked = [code for code in recipe.languages if training.suppress != [code]]
    prompts = [(code, prompt) for code in asked for prompt in clean_prompts(held_out[code], code)[: recipe.prompts]]
    with open(Path(training.output_dir) / "responses.jsonl", "w", encoding="utf-8") as file:
        for top_p, samples in zip(recipe.top_p, recipe.samples, strict=True):
            answers = sample_responses(
                model,
                tokenizer,
                [prompt for _, prompt in prompts],
                SamplingSettings(top_p=top_p, max_new_tokens=recipe.max_new_tokens, seed=training.seed),
                samples=samples,
                batch_size=recipe.generation_batch_size,
                chat=True,
            )
            rows = [
                {
                    **{"language": code, "prompt": prompt, "response": one.text, "top_p": top_p},
                    **{"finish_reason": one.finish_reason, "tokens": one.tokens},
                }
                for (code, prompt), found in zip(prompts, answers, strict=True)
                for one in found
            ]
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            for target in training.suppress:
                others = [row for row in rows if row["language"] != target]
                # As published: any character of the script counts, wherever it stands.
                report = code_switching_rate(
                    [str(row["response"]) for row in others],
                    [str(row["language"]) for row in others],
                    to=target,
                    clusters=[row["prompt"] for row in others],
                    ignore_code=False,
                    ignore_urls=False,
                )
                yield {"suppress": target, "top_p": top_p, "rate": report.overall}


def clean_prompts(texts: Sequence[str], code: str) -> list[str]:
    """First thirds of paragraphs that hold nothing but their own script and Latin, so that no switch is invited."""
    return [split_paragraph(text)[0] for text in texts if not unexpected_spans(text, code)]


def write(
    recipe: RecipeArguments,
    training: SASFTConfig,
    model_config: ModelConfig,
    losses: dict[str, float],
    measured: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Append the rows to the CSV."""
    plain = recipe.variant == "sft"
    rows = [
        {
            "recipe": "sasft+lora" if model_config.use_peft else "sasft",
            "model": Path(model_config.model_name_or_path).name,
            "suppress": one["suppress"],
            "variant": recipe.variant,
            "seed": training.seed,
            "layers": "" if plain else " ".join(map(str, recipe.layers)),
            "features": "" if plain else recipe.top,
            "weight": "" if plain else training.sasft_weight,
            "scale": "" if plain else training.sasft_scale,
            "baseline": "" if plain else training.sasft_baseline,
            "lr": training.learning_rate,
            "steps": training.max_steps,
            "top_p": one["top_p"],
            "switched": one["rate"].hits,
            "total": one["rate"].total,
            **{name: f"{getattr(one['rate'], name):.5f}" for name in ("rate", "low", "high")},
            "heldout_loss": f"{losses['all']:.4f}",
            "heldout_loss_suppressed": f"{losses[one['suppress']]:.4f}",
        }
        for one in measured
    ]
    append_results(Path(recipe.results or Path(training.output_dir) / "results.csv"), rows, __file__)
    for row in rows:
        print(", ".join(f"{name} {row[name]}" for name in ("suppress", "variant", "top_p", "rate", "heldout_loss")))
    return rows


if __name__ == "__main__":
    main()
