"""The demo's first half: build the world, run the four arms, print one table and list the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..shared.console import clock, conclude, quiet
from ..shared.jobs import Jobs, at_once, one_thread
from ..shared.language import parallel_sentences
from ..shared.plan import WorldPlan
from .experiment import ARMS, BENCHMARK, DEMO, Outcome, Settings, run_arms
from .record import look_into_features
from .world import World, build_world, open_world


def demonstrate(
    output: Path,
    *,
    suppress: str = "zh",
    seed: int = 0,
    settings: Settings = DEMO,
    plan: WorldPlan | None = None,
    jobs: Jobs = at_once,
) -> list[Outcome]:
    """Find features, fine-tune four arms and measure them. All files are written to `output`.

    It takes about two minutes on two cores.

    Args:
        output: folder to write to.
        suppress: code of the language to keep out of answers in other languages.
        seed: random seed of the training data, its order and the texts for discovery. If the base model is trained, it
            is its seed too.
        settings: settings that all arms share.
        plan: how to train the base model and its SAE. Default: use those that ship with the package.
        jobs: function that starts the arms.

    Returns: the measurements of each arm.
    """
    say = clock()
    output.mkdir(parents=True, exist_ok=True)
    say("1/3 a miniature world: four languages with the same meanings")
    for text in (texts[0] for texts in parallel_sentences(1, seed).values()):
        say(f"  {text}")
    with one_thread(), quiet():
        world = open_world(output, say=say) if plan is None else build_world(output, plan=plan, seed=seed, say=say)
        say(f"  {copying_line(world)}")
        say(f"2/3 features of {suppress}, and fine-tuning in four ways: {settings.steps} steps each")
        outcomes = run_arms(world.base, world.saes, suppress, seed, settings, output=output, jobs=jobs, say=say)
        say("3/3 where the features are active")
        look_into_features(output, ARMS, suppress, seed)
    conclude(
        output,
        f"{outcome_table(outcomes, suppress)}\n{basis_line(settings)}\n\n{copying_line(world)}",
        suppress=suppress,
        seed=seed,
        settings=asdict(settings),
        world=asdict(world),
        outcomes=[asdict(outcome) for outcome in outcomes],
    )
    return outcomes


def basis_line(settings: Settings) -> str:
    """A sentence about the sample sizes behind the table's numbers."""
    return (
        f"One seed, {settings.prompts * settings.samples:,} answers per rate, with 95% intervals. "
        f"benchmarks/README.md has three seeds and {3 * BENCHMARK.prompts * BENCHMARK.samples:,} answers for each."
    )


def copying_line(world: World) -> str:
    """A line about the ability to loop: how often the model continues two periods with a third."""
    return (
        f"given two periods it continues: {world.copies_rhymes:.0%} of rhymes, {world.copies_stories:.0%} of "
        f"sentences (held-out loss {world.held_out_loss:.3f} nats a token)"
    )


def outcome_table(outcomes: Sequence[Outcome], suppress: str) -> str:
    """One line per arm."""
    nuclei = list(outcomes[0].switching)
    head = "".join(f"{f'switches to {suppress}, top_p {top_p}':>34}" for top_p in nuclei)
    lines = [f"{'arm':<16}{head}{'held-out loss':>22}"]
    plain = outcomes[0].held_out_loss
    for outcome in outcomes:
        rates = (outcome.switching[top_p] for top_p in nuclei)
        cells = "".join(f"{f'{r.rate:.2%}  [{r.low:.2%}, {r.high:.2%}]':>34}" for r in rates)
        loss = f"{outcome.held_out_loss:.4f} ({outcome.held_out_loss / plain - 1:+.2%})"
        lines.append(f"{outcome.arm:<16}{cells}{loss:>22}")
    return "\n".join(lines)
