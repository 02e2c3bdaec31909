"""Which of TRL's trainers SASFT joins, and which it refuses by name, before anything runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Qwen3ForSequenceClassification, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTTrainer

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft.objective import check_objective

from .exactness import Row, errors_of_the_addition
from .plain import tokenised
from .world import World


def settings(world: World, config: Any, **changes: Any) -> Any:
    return config(**{**world.arguments(), **changes})


def preferences(world: World) -> Dataset:
    return world.dataset.map(lambda row: {"chosen": row["completion"], "rejected": " <unk>"}).remove_columns(
        "completion"
    )


def classifier(world: World) -> Qwen3ForSequenceClassification:
    config = world.make_model().config
    config.num_labels = 1
    return Qwen3ForSequenceClassification(config)


class TestRealTrainers:
    def test_dpo(self, world: World) -> None:
        trainer = DPOTrainer(
            world.make_model(),
            world.make_model(),
            args=settings(world, DPOConfig),
            train_dataset=preferences(world),
            processing_class=world.tokenizer,
        )
        with pytest.raises(ValueError, match=r"DPOTrainer has none: it compares answers .* first, and then with DPOTr"):
            SASFTCallback(world.features, suppress="zh").set_trainer(trainer)

    def test_dpo_that_finds_out_when_training_begins(self, world: World) -> None:
        trainer = DPOTrainer(
            world.make_model(),
            world.make_model(),
            args=settings(world, DPOConfig),
            train_dataset=preferences(world).remove_columns("language"),
            processing_class=world.tokenizer,
            callbacks=[SASFTCallback(world.features, suppress="zh")],
        )
        with pytest.raises(ValueError, match="DPOTrainer has none"):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_grpo(self, world: World) -> None:
        trainer = GRPOTrainer(
            world.make_model(),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=settings(world, GRPOConfig, num_generations=2),
            train_dataset=world.dataset,
            processing_class=world.tokenizer,
        )
        with pytest.raises(ValueError, match=r"GRPOTrainer has none: .*CodeSwitchingPenalty"):
            SASFTCallback(world.features, suppress="zh").set_trainer(trainer)

    def test_reward(self, world: World) -> None:
        model = classifier(world)
        trainer = RewardTrainer(
            model,
            args=settings(world, RewardConfig),
            train_dataset=preferences(world),
            processing_class=world.tokenizer,
        )
        with pytest.raises(ValueError, match=r"RewardTrainer has none: .* scores answers"):
            SASFTCallback(world.features, suppress="zh").set_trainer(trainer)


def all_trainers() -> list[type]:
    """TRL's own, stable and experimental, as far as they can be imported here."""
    found: dict[str, type] = {}
    folder = Path(trl.__file__).parent
    for file in sorted(folder.glob("**/*_trainer.py")):
        module = ".".join(("trl", *file.relative_to(folder).with_suffix("").parts))
        try:
            names = vars(__import__(module, fromlist=["_"]))
        except ImportError:
            continue
        found |= {n: one for n, one in names.items() if isinstance(one, type) and issubclass(one, Trainer)}
    return [one for n, one in found.items() if one.__module__.startswith("trl") and "Base" not in n]


def test_every_trainer_of_trl_is_served_or_refused_by_name() -> None:
    found = {one.__name__: one for one in all_trainers()}
    assert {"SFTTrainer", "DPOTrainer", "GRPOTrainer", "RLOOTrainer", "RewardTrainer"} <= set(found)
    for name, one in found.items():
        trainer = one.__new__(one)
        trainer.args = SimpleNamespace()
        if name in ("SFTTrainer", "GKDTrainer"):
            check_objective(trainer)
        else:
            with pytest.raises(ValueError, match=f"{name} has none"):
                check_objective(trainer)


def test_a_users_own_trainer_is_taken_for_what_it_derives_from() -> None:
    for base in (Trainer, SFTTrainer, DPOTrainer):
        mine = type("MyTrainer", (base,), {})
        trainer = mine.__new__(mine)
        trainer.args = SimpleNamespace()
        if base is DPOTrainer:
            with pytest.raises(ValueError, match="DPOTrainer has none"):
                check_objective(trainer)
        else:
            check_objective(trainer)


def test_orpo_of_axolotl_is_a_setting_of_its_trainer() -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.args = SimpleNamespace(orpo_alpha=0.1)
    with pytest.raises(ValueError, match="ORPO has none: it compares answers"):
        check_objective(trainer)
    trainer.args = SimpleNamespace(orpo_alpha=None)
    check_objective(trainer)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DPOTrainer", "compares answers"),
        ("GKDTrainer", "learns from a teacher"),
        ("GRPOTrainer", "CodeSwitchingPenalty"),
        ("RewardTrainer", "scores answers"),
    ],
)
def test_the_rlhf_trainers_of_ms_swift(name: str, why: str) -> None:
    """They derive from TRL's; that of GKD too, which is served in TRL alone."""
    base = SFTTrainer if name == "GKDTrainer" else Trainer
    theirs = type(name, (base,), {"__module__": f"swift.rlhf_trainers.{name[:3].lower()}_trainer"})
    trainer = theirs.__new__(theirs)
    trainer.args = SimpleNamespace()
    with pytest.raises(ValueError, match=f"{name} has none: .*{why}"):
        check_objective(trainer)


def test_labels_that_are_not_of_tokens(world: World) -> None:
    """A classifier's batch, in a plain `Trainer`."""
    model = classifier(world)
    rows = [{"input_ids": [3, 4, 5], "label": number / 8} for number in range(8)]
    trainer = Trainer(
        model,
        TrainingArguments(**world.arguments()),
        train_dataset=Dataset.from_list(rows),
        processing_class=world.tokenizer,
    )
    trainer.add_callback(SASFTCallback(world.features, suppress="zh", weight=1.0).set_trainer(trainer))
    with pytest.raises(ValueError, match="one label per token"):
        trainer.train()
    assert trainer.state.global_step == 0


class TestGKD:
    """A loss over labels that follows a teacher; `lmbda` is the share of steps in which the student samples answers."""

    @staticmethod
    def route(model: Any, features: Any, suppress: Any, weight: Any, **kwargs: Any) -> Any:
        gkd = pytest.importorskip("trl.experimental.gkd")
        given = kwargs.pop("args")
        token_weight = given.pop("token_weight", None)
        kwargs["data_collator"] = WithPrompts(kwargs["processing_class"])
        args = gkd.GKDConfig(**{"lmbda": 0.0, **given}, dataset_kwargs={"skip_prepare_dataset": True})
        teacher = type(model)(model.config)
        trainer = gkd.GKDTrainer(model, teacher, args=args, **kwargs)
        trainer.add_callback(
            SASFTCallback(features, suppress=suppress, weight=weight, token_weight=token_weight).set_trainer(trainer)
        )
        return trainer

    def test_what_is_added_is_the_auxiliary_gradient(self, world: World) -> None:
        errors = errors_of_the_addition(world, self.route, Row(data=tokenised))
        assert max(errors.values()) <= 1e-5, errors

    def test_sampled_answers_keep_the_language_of_their_row(self, world: World) -> None:
        dataset = tokenised(world)[0].map(lambda row: {"language": "en"})
        trainer = world.run(self.route, dataset=dataset, lmbda=1.0, max_new_tokens=4, weight=1.0)
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["sasft_by_column_share"] == log["sasft_penalised_share"] == 1
        assert log["sasft_loss"] > 0


class WithPrompts:
    """What GKD's own collator gives: prompts beside the whole rows."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = DataCollatorForSeq2Seq(tokenizer)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [{"input_ids": one["input_ids"][:3], "labels": one["labels"][:3]} for one in examples]
        of_prompts = self.inner(prompts)
        return {
            **self.inner(examples),
            "prompts": of_prompts["input_ids"],
            "prompt_attention_mask": of_prompts["attention_mask"],
        }
