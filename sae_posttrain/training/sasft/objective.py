"""Check the trainer's objective. SASFT needs a loss over labelled tokens and refuses other trainers by name."""

from __future__ import annotations

from transformers import Trainer

SERVED = frozenset({"SFTTrainer", "GKDTrainer"})
"""TRL's trainers that compute a loss over `labels` and divide it by the number of labelled tokens in the step."""
_BASES = frozenset({"_BaseTrainer", "BaseTrainer"})
_FIRST = "Train with SASFT (SFTTrainer) first, and then with {name}."
_INSTEAD = {
    ("GRPO", "RLOO", "GMPO", "PPO", "GFPO", "PAPO", "A2PO", "OnlineDPO", "XPO", "NashMD"): (
        "it learns from rewards of sampled answers. Give it the reward function "
        "sae_posttrain.CodeSwitchingPenalty, or train with SASFT (SFTTrainer) before it."
    ),
    ("Reward", "PRM"): "it trains a model that scores answers and does not generate any.",
    (
        "Distill",
        "GOLD",
        "GKD",
        "SDFT",
        "SDPO",
        "SSD",
        "OPD",
        "MiniLLM",
    ): f"it learns from a teacher with its own loss. {_FIRST}",
}
_COMPARES = f"it compares answers with each other, and its batches have no labels for single answers. {_FIRST}"


def check_objective(trainer: Trainer) -> None:
    """Refuse a trainer whose loss is not a loss over labelled tokens.

    A plain `Trainer` and its subclasses are accepted, unless they derive from a trainer of TRL or of ms-swift's RLHF
    that has another objective.

    Raises:
        ValueError: the trainer has another objective. The message says what to do instead.
    """
    name = _other_objective(trainer)
    if name is not None:
        why = next((text for names, text in _INSTEAD.items() if any(one in name for one in names)), _COMPARES)
        raise ValueError(f"SASFT adds to a loss over labelled tokens, and {name} has none: {why.format(name=name)}")


def _other_objective(trainer: Trainer) -> str | None:
    """The name of the TRL or ms-swift trainer from which this one derives, if that has another objective."""
    if getattr(trainer.args, "orpo_alpha", None):
        return "ORPO"  # Axolotl's own trainer has ORPO as a setting
    for one in type(trainer).__mro__:
        of_trl = one.__module__.split(".")[0] == "trl" and one.__name__ not in _BASES
        if issubclass(one, Trainer) and (of_trl or one.__module__.startswith("swift.rlhf_trainers")):
            return None if of_trl and one.__name__ in SERVED else one.__name__
    return None
