"""`sae-posttrain grpo`: GRPO or DAPO with steered rollouts. It takes TRL's settings and ours, as YAML or options."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from . import trainer_runs as common
from .inputs import searching_this_folder


@dataclass
class RewardArguments:
    """The rewards to train on. TRL's `reward_weights` sets their weights."""

    rewards: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or several of loop_penalty, code_switching_penalty, soft_overlong, or import paths of "
            "functions, such as trl.rewards.accuracy_reward or my_rewards.correct."
        },
    )
    code_switching_to: list[str] | None = field(
        default=None, metadata={"help": "Languages or scripts whose words code_switching_penalty counts; default: all."}
    )
    code_switching_graded: bool = field(
        default=False,
        metadata={"help": "Whether code_switching_penalty is multiplied by the share of words that are switches."},
    )
    loop_penalty_unit: Literal["text", "tokens"] = field(
        default="tokens",
        metadata={
            "help": "What loop_penalty reads. tokens: token ids, with loop_min_tokens, as for the logged loop_rate. "
            "text: the text, as `sae-posttrain measure repetition` does."
        },
    )
    loop_penalty_graded: bool = field(
        default=False,
        metadata={"help": "Whether loop_penalty is multiplied by the share of the completion inside loops."},
    )
    loop_penalty_near_loops: bool = field(
        default=False, metadata={"help": "Whether loop_penalty penalises near-loops too."}
    )
    soft_overlong_cache: int = field(
        default=4096,
        metadata={
            "help": "soft_overlong penalises completions longer than max_completion_length minus this number of "
            "tokens, more the longer they are."
        },
    )


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    common.add_parser(commands, "grpo", "train with GRPO or DAPO and one steered rollout in each group", run, {})


def run(args: argparse.Namespace) -> int:
    # First, because without TRL its message names the extra to install.
    from ..training.rollouts import SteeredGRPOConfig, SteeredGRPOTrainer

    from trl import ModelConfig, ScriptArguments, TrlParser  # isort: skip

    parser = TrlParser((ScriptArguments, SteeredGRPOConfig, ModelConfig, RewardArguments), prog="sae-posttrain grpo")
    script, training, model, chosen = common.parse(parser, args.rest)
    rewards = rewards_of(chosen, training)
    trainer = SteeredGRPOTrainer(reward_funcs=rewards, **common.inputs_of(script, training, model))
    common.train_and_save(trainer, script)
    return 0


def rewards_of(chosen: RewardArguments, training: Any) -> list[Callable[..., Any]]:
    """Make the reward functions from their names.

    Raises:
        ValueError: there is no name, or a name is unknown.
    """
    from ..training.rewards import CodeSwitchingPenalty, LoopPenalty

    if not chosen.rewards:
        raise ValueError("No reward: set rewards, such as [my_rewards.correct, loop_penalty].")
    if chosen.soft_overlong_cache > training.max_completion_length and "soft_overlong" in chosen.rewards:
        raise ValueError(
            f"soft_overlong_cache ({chosen.soft_overlong_cache}) is above max_completion_length "
            f"({training.max_completion_length}), so every completion would be penalised; lower it."
        )
    ours: dict[str, Callable[..., Any]] = {
        "loop_penalty": LoopPenalty(
            loop_settings=training.loop_settings,
            unit=chosen.loop_penalty_unit,
            graded=chosen.loop_penalty_graded,
            near_loops=chosen.loop_penalty_near_loops,
        ),
        "code_switching_penalty": CodeSwitchingPenalty(
            to=chosen.code_switching_to, graded=chosen.code_switching_graded
        ),
        "soft_overlong": SoftOverlong(training.max_completion_length, chosen.soft_overlong_cache),
    }
    return [ours[name] if name in ours else _imported(name, ours) for name in chosen.rewards]


class SoftOverlong:
    """TRL's `get_soft_overlong_punishment`, for which a rollout that was stopped in its loop has the full length.

    Args:
        length: the largest number of tokens of a completion.
        cache: tokens before it from which on the penalty grows.
    """

    __name__ = "soft_overlong_punishment_reward"  # TRL's, which the log's columns carry

    def __init__(self, length: int, cache: int) -> None:
        from trl.rewards import get_soft_overlong_punishment

        self.length = length
        self.punishment = get_soft_overlong_punishment(length, cache)

    def __call__(self, completion_ids: list[list[int]], stopped: Sequence[bool] = (), **kwargs: Any) -> list[float]:
        lengths = zip(completion_ids, stopped or [False] * len(completion_ids), strict=True)
        found: list[float] = self.punishment([range(self.length) if cut else ids for ids, cut in lengths])
        return found


def _imported(name: str, ours: dict[str, Any]) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    if not module:
        raise ValueError(
            f"Unknown reward {name!r}. Expected one of {', '.join(ours)}, or the import path of your own function, "
            f"such as my_rewards.{name}."
        )
    try:
        with searching_this_folder():
            found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The reward {name!r} cannot be imported: {error}.") from error
