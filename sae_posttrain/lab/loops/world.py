"""The files of the second world: a base model that copies and rarely loops, its SAEs, and features that cause loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from ...discovery import discover_repetition_features
from ...discovery.loop_sampling import LoopSample, sample_loops
from ...sampling import Prompt, SamplingSettings
from ...steering import Calibration, calibrate
from ..shared.making import SHIPPED, train_world, unpack_world
from ..shared.model import ModelSize, Stage, copying_share
from ..shared.plan import WorldPlan
from ..shared.saes import sae_folder, unexplained_variance
from .documents import LANGUAGE, NURSERY, PATTERN, WORLD, pattern, story_prompts

PLAN = WorldPlan(
    ModelSize(width=64, blocks=4, heads=2, head_width=32, window=2),
    (Stage(NURSERY, row=PATTERN, batch=32, steps=200), Stage(WORLD, row=96, batch=16, steps=900)),
    sae_steps=80,
    layers=(1, 2),  # block 0 sees only one earlier token; after the last block, no block could use what steering adds
    learning_rate=3e-3,
    d_sae=256,
    k=8,
)
FILE = SHIPPED / "loops.safetensors"
TOP = 4
ALPHAS = (0.5, 0.75, 1.0, 1.25, 1.5)
TARGET = 0.25  # share of steered answers that should loop. With stronger steering, this small model writes nonsense
RATIO = 5.0  # the model is sure of most words, so one unlikely word before the loop doubles the perplexity
MAX_TOKENS = 96


@dataclass(frozen=True)
class World:
    """The paths of a world and its measurements."""

    base: Path
    saes: Path
    vocabulary: int
    parameters: int
    copies_patterns: float  # share of patterns (two periods of 2 to 6 tokens) that are continued with a third period
    unexplained: dict[int, float]  # layer -> share of variance that its SAE does not explain


def build_world(folder: Path, *, plan: WorldPlan = PLAN, seed: int = 0, say: Callable[[str], None] = print) -> World:
    """Train the base model and its SAEs, and save them in `folder`. It takes a minute on one core."""
    train_world(folder, plan, seed=seed, say=say)
    return measure_world(folder, plan)


def open_world(folder: Path, *, file: Path = FILE, say: Callable[[str], None] = print) -> World:
    """Write the base model and the SAEs that ship with the package to `folder`."""
    unpack_world(file, folder, PLAN, say=say)
    return measure_world(folder)


def measure_world(folder: Path, plan: WorldPlan = PLAN) -> World:
    """Measure the model and SAEs in a folder that `build_world` or `open_world` wrote."""
    base, saes = folder / "base", sae_folder(folder, plan.d_sae, plan.k)
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    return World(
        base=base,
        saes=saes,
        vocabulary=len(tokenizer),
        parameters=model.num_parameters(),
        copies_patterns=copying_share(model, tokenizer, pattern, languages=(LANGUAGE,)),
        unexplained=unexplained_variance(model, tokenizer, saes, plan.layers, reading=WORLD),
    )


def find_features(world: World, *, seed: int = 0, say: Callable[[str], None] = print) -> Calibration:
    """Find the features that become more active during the model's own loops, and calibrate steering along them."""
    model = Qwen3ForCausalLM.from_pretrained(world.base).eval()
    tokenizer = AutoTokenizer.from_pretrained(world.base)
    loops = find_own_loops(model, tokenizer, seed)
    say(f"  {loops}")
    features = discover_repetition_features(
        model, tokenizer, world.saes, loops.texts, layers=PLAN.layers, top=TOP, batch_size=100, progress=False
    )
    return calibrate(
        model,
        tokenizer,
        features,
        _prompts(150, 60_000 + seed),
        alphas=ALPHAS,
        top=[TOP],
        target_rate=TARGET,
        max_ratio=RATIO,
        sampling=SamplingSettings(1.0, 1.0, MAX_TOKENS, seed=seed),
        batch_size=500,
        progress=False,
    )


def find_own_loops(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int) -> LoopSample:
    """Sample answers at the temperature of training until 40 of them end in a loop."""
    return sample_loops(
        model,
        tokenizer,
        _prompts(10_000, 50_000 + seed),
        loops=40,
        sampling=SamplingSettings(1.0, 1.0, MAX_TOKENS, seed=seed),
        batch_size=500,
        progress=False,
    )


def _prompts(count: int, seed: int) -> list[Prompt]:
    return [row["prompt"] for row in story_prompts(count, seed)]
