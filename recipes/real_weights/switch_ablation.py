"""Do a language's features cause switches to it? Subtract them just before a switch, and add them where there is none.

python recipes/real_weights/switch_ablation.py --runs runs/sft-0 --answers causality/answers-0.jsonl \
    --features features-0.safetensors --random random-0.safetensors --texts texts-0 --results real_weights.csv
At the token before a switch, one layer's residual x becomes `x - length * d`. The probability that the next token is
one of the language, at the temperature of the answers, is measured before and after. Every direction d has the same
norm: the mean norm of the residual at these tokens. `--lengths` are shares of it. The controls are the other languages'
features, random features and a random direction. The rival that needs no SAE is the difference between the mean
residuals of the language and of the others.
"""

# P passages, E edits, V vocabulary, D model width, S sequence

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from result_rows import COLUMNS, Arm, ratio_interval, replace_rows, row  # type: ignore[import-not-found]
from switch_seeds import (  # type: ignore[import-not-found]
    RECIPE,
    Pairs,
    Seed,
    add_seeds,
    named,
    pairs_of,
    seeds_of,
    together,
)
from torch import Tensor

from sae_posttrain.inspection import SwitchPassage
from sae_posttrain.inspection.sweep import sweep_at_switches
from sae_posttrain.languages import get_language
from sae_posttrain.residual import read_residuals
from sae_posttrain.steering import ablate, typical_contributions
from sae_posttrain.texts import load_texts
from sae_posttrain.vocabulary import token_scripts

AT_SWITCHES = "probability of the language at a switch"
ELSEWHERE = "probability of the language without a switch"


@dataclass(frozen=True)
class Effect:
    """Probabilities of one seed, or of several together, before and after one edit.

    Args:
        metric: where: at switches, or at the same places without one.
        setting: what was done.
        prompts: of each place, so that intervals draw prompts.
    """

    arm: Arm
    metric: str
    setting: str
    prompts: list[tuple[int, ...]]
    before: list[float]
    after: list[float]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command; returns the rows of its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_seeds(parser)
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.05, 0.1, 0.2], help="default: 0.05 0.1 0.2")
    parser.add_argument("--temperature", type=float, default=1.3, help="of the answers (default: %(default)s)")
    parser.add_argument("--means-of", type=int, default=50, help="texts per language for the rival; 0 leaves it out")
    args = parser.parse_args(arguments)
    groups: dict[tuple[str, str, str], list[Effect]] = {}
    for seed in seeds_of(args):
        means = mean_residuals(seed, args)
        for target in args.targets:
            for effect in effects(seed, target, means, args):
                groups.setdefault((effect.arm.arm, effect.metric, effect.setting), []).append(effect)
    all_effects = [effect for group in groups.values() for effect in with_joined(group)]
    written = [line for effect in all_effects for line in rows_of(effect)]
    replace_rows(args.results, written)
    for line in written:
        print(", ".join(str(line[name]) for name in COLUMNS[2:10]), flush=True)
    return written


def effects(seed: Seed, target: str, means: dict[str, dict[int, Tensor]], args: argparse.Namespace) -> Iterator[Effect]:
    """All edits of one seed for one target."""
    pairs: Pairs = pairs_of(seed, target, args.switches)
    size = seed.model.config.get_text_config().vocab_size
    tokens_V = token_scripts(seed.tokenizer).mask(get_language(target).scripts, size=size)
    norms = norms_before(seed, pairs.switches, args.batch_size)
    planned = [
        (whose, layer, direction_D * norms[layer] / direction_D.norm(), length)
        for layer in norms
        for whose, direction_D in directions(seed, target, layer, means)
        for length in args.lengths
    ]
    for metric, sign, passages in ((AT_SWITCHES, -1, pairs.switches), (ELSEWHERE, 1, pairs.ordinary)):
        if not passages:
            continue
        edits = [{layer: sign * length * d_D} for _, layer, d_D, length in planned]
        before_P, *after = sweep(seed, passages, tokens_V, [{}, *edits], args)
        prompts, before = [one.ids[: one.start] for one in passages], before_P.tolist()
        yield Effect(named(seed, f"into {target}"), metric, "unchanged", prompts, before, before)
        for (whose, layer, _, length), after_P in zip(planned, after, strict=True):
            arm = named(seed, f"into {target}, {whose}, layer {layer}")
            done = f"{'subtracted' if sign < 0 else 'added'}, length {length:g}"
            yield Effect(arm, metric, done, prompts, before, after_P.tolist())
    yield set_to_zero(seed, target, pairs.switches, tokens_V, args)


def sweep(
    seed: Seed,
    passages: Sequence[SwitchPassage],
    tokens_V: Tensor,
    edits: Sequence[dict[int, Tensor]],
    args: argparse.Namespace,
) -> Tensor:
    """`(E, P)` probabilities of the language's tokens at the places of the passages."""
    how = {"temperature": args.temperature, "batch_size": 4}
    found_PE: Tensor = sweep_at_switches(seed.model, passages, tokens_V, edits, **how)
    return found_PE.T


def set_to_zero(
    seed: Seed, target: str, passages: Sequence[SwitchPassage], tokens_V: Tensor, args: argparse.Namespace
) -> Effect:
    """The language's features set to zero at all tokens of all their layers, as `ablate` does."""
    before = sweep(seed, passages, tokens_V, [{}], args)[0].tolist()
    features = seed.features.select([target])
    with ablate(seed.model, features):
        after = sweep(seed, passages, tokens_V, [{}], args)[0].tolist()
    layers = "+".join(str(layer.layer) for layer in features.layers)
    arm = named(seed, f"into {target}, features of {target}, layers {layers}")
    prompts = [one.ids[: one.start] for one in passages]
    return Effect(arm, AT_SWITCHES, "set to zero at all tokens", prompts, before, after)


def directions(
    seed: Seed, target: str, layer: int, means: dict[str, dict[int, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The directions of one layer, of any length, each with whose it is."""
    for code in seed.features.targets:
        chosen = seed.features.select([code])
        if layer in typical_contributions(chosen):
            yield f"features of {code}", typical_contributions(chosen)[layer]
    best = [one for one in seed.features.select([target], top=1).layers if one.layer == layer]
    if best:
        yield f"best feature of {target}", best[0].direction[0]
    if seed.random and layer in typical_contributions(seed.random.select([target])):
        yield "random features", typical_contributions(seed.random.select([target]))[layer]
    draw = torch.Generator().manual_seed(1000 * int(seed.arm.seed or 0) + layer)
    yield "random direction", torch.randn(seed.model.config.get_text_config().hidden_size, generator=draw)
    if target in means:
        others = [means[code][layer] for code in means if code != target]
        yield "difference of means", means[target][layer] - torch.stack(others).mean(dim=0)


def mean_residuals(seed: Seed, args: argparse.Namespace) -> dict[str, dict[int, Tensor]]:
    """By language and layer the mean residual `(D,)` over the texts' tokens, without the first one."""
    layers = [layer.layer for layer in seed.features.layers]
    found = {}
    for code in ("en", *args.targets) if args.means_of else ():
        texts = [text for text, _ in zip(load_texts(seed.texts / f"{code}.jsonl"), range(args.means_of), strict=False)]
        ids = [seed.tokenizer(text)["input_ids"][:64] for text in texts]
        rows: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for start in range(0, len(ids), args.batch_size):
            residuals, mask_BS = read_residuals(seed.model, layers, ids[start : start + args.batch_size])
            for layer, residual_BSD in residuals.items():
                rows[layer].append(residual_BSD[:, 1:][mask_BS[:, 1:].bool()].float())
        found[code] = {layer: torch.cat(ones).mean(dim=0) for layer, ones in rows.items()}
    return found


def norms_before(seed: Seed, switches: Sequence[SwitchPassage], batch_size: int) -> dict[int, float]:
    """By layer, the mean norm of the residual at the token before each switch."""
    layers = [layer.layer for layer in seed.features.layers]
    heads = [one.ids[: one.place] for one in switches]
    norms: dict[int, list[float]] = {layer: [] for layer in layers}
    for start in range(0, len(heads), batch_size):
        batch = heads[start : start + batch_size]
        residuals, _ = read_residuals(seed.model, layers, batch)
        for layer, residual_BSD in residuals.items():
            last_BD = torch.stack([residual_BSD[i, len(ids) - 1] for i, ids in enumerate(batch)])
            norms[layer] += last_BD.float().norm(dim=-1).tolist()
    return {layer: sum(ones) / len(ones) for layer, ones in norms.items()}


def with_joined(group: Sequence[Effect]) -> Iterator[Effect]:
    """The seeds of an arm, and all of them together."""
    yield from group
    if len(group) > 1:
        lists = [[value for one in group for value in getattr(one, name)] for name in ("prompts", "before", "after")]
        yield Effect(together([one.arm for one in group]), group[0].metric, group[0].setting, *lists)


def rows_of(effect: Effect) -> Iterator[dict[str, Any]]:
    """The mean probability without a switch; at switches that of the unchanged model, and its relative changes."""
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for prompt, before, after in zip(effect.prompts, effect.before, effect.after, strict=True):
        sums[prompt] = sums.get(prompt, np.zeros(4)) + np.array([after, 1, before, 1])
    cells = np.array(list(sums.values()))
    alone = effect.setting == "unchanged" or effect.metric == ELSEWHERE
    metric = effect.metric if alone else f"change of the {effect.metric}"
    values = ratio_interval(cells[:, :2] if alone else cells)
    yield row(RECIPE, effect.arm, metric, effect.setting, *values, len(effect.before))


if __name__ == "__main__":
    main()
