"""What a run with SASFT does besides its gradient: stays plain where it should, logs, and refuses what cannot work."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer
from sae_posttrain.residual import decoder_blocks
from sae_posttrain.training.sasft.loss import build_penalty
from sae_posttrain.training.sasft.segments import CODES, LANGUAGE_IDS

from .routes import Route, one_step_arguments, with_callback, with_trainer

MakeModel = Callable[..., nn.Module]
both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])


def adam_arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4}
    return one_step_arguments(folder, **settings, **changes)


def weights(trainer: SFTTrainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def plain_run(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, dataset: Dataset, folder: Path, **changes: Any
) -> SFTTrainer:
    args = SFTConfig(**adam_arguments(folder, **changes))
    trainer = SFTTrainer(make_model(), args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return trainer


class TestPlainWhereItShouldBe:
    @both_routes
    @pytest.mark.parametrize("packing", [False, True])
    def test_zero_weight_is_plain_sft_bit_for_bit(
        self,
        route: Route,
        packing: bool,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        settings = {"packing": True, "max_length": 24} if packing else {}
        plain = plain_run(make_model, tokenizer, dataset, tmp_path, **settings)
        args = adam_arguments(tmp_path, **settings)
        ours = route(make_model(), features, ["zh"], 0.0, args=args, train_dataset=dataset, processing_class=tokenizer)
        ours.train()
        assert same(weights(ours), weights(plain))
        logged, expected = (
            [log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (ours, plain)
        )
        assert logged == expected
        assert ours.state.log_history[0]["sasft_loss"] > 0

    @both_routes
    def test_a_run_with_nothing_to_penalise_is_plain_sft_bit_for_bit(
        self,
        route: Route,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        chinese = dataset.filter(lambda row: row["language"] == "zh")
        plain = plain_run(make_model, tokenizer, chinese, tmp_path)
        args = adam_arguments(tmp_path)
        ours = route(make_model(), features, ["zh"], 1.0, args=args, train_dataset=chinese, processing_class=tokenizer)
        ours.train()
        assert same(weights(ours), weights(plain))
        assert ours.state.log_history[0]["sasft_penalised_share"] == 0

    @both_routes
    def test_evaluation_is_untouched(
        self,
        route: Route,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        plain = SFTTrainer(
            make_model(),
            SFTConfig(**adam_arguments(tmp_path)),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )
        args = adam_arguments(tmp_path, eval_strategy="steps", eval_steps=1, eval_on_start=True)
        ours = route(
            make_model(),
            features,
            ["zh"],
            1.0,
            args=args,
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )
        ours.train()
        first = next(log for log in ours.state.log_history if "eval_loss" in log)
        assert first["eval_loss"] == plain.evaluate()["eval_loss"]
        assert not any(key.startswith("sasft") for key in first)
        assert ours.evaluate()["eval_loss"] > 0


class TestLogs:
    @both_routes
    def test_values_do_not_depend_on_accumulation(
        self,
        route: Route,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        logs = []
        for batch, accumulation in ((8, 1), (2, 4)):
            args = one_step_arguments(
                tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
            )
            trainer = route(
                make_model(), features, ["zh", "ru"], 0.5, args=args, train_dataset=dataset, processing_class=tokenizer
            )
            trainer.train()
            logs.append({k: v for k, v in trainer.state.log_history[0].items() if k.startswith("sasft")})
        assert logs[0].keys() == {
            "sasft_loss",
            "sasft_penalised_share",
            "sasft_unknown_share",
            "sasft_pre_activation_zh",
            "sasft_pre_activation_ru",
        }
        assert logs[1] == pytest.approx(logs[0], rel=1e-4)

    def test_the_logged_loss_is_the_difference_to_plain_sft(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        args = one_step_arguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
        plain = SFTTrainer(make_model(), SFTConfig(**args), train_dataset=dataset, processing_class=tokenizer)
        plain.train()
        ours = with_callback(
            make_model(), features, ["zh"], 0.5, args=args, train_dataset=dataset, processing_class=tokenizer
        )
        ours.train()
        log = ours.state.log_history[0]
        assert log["loss"] - plain.state.log_history[0]["loss"] == pytest.approx(0.5 * log["sasft_loss"], rel=1e-3)

    def test_shares_of_penalised_and_unknown_tokens(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        rows: list[dict[str, Any]],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        told = [{**row, "language": None if row["language"] == "ru" else row["language"]} for row in rows]
        args = one_step_arguments(tmp_path, per_device_train_batch_size=8, max_steps=2)
        trainer = with_trainer(
            make_model(),
            features,
            ["zh"],
            0.5,
            args=args,
            train_dataset=Dataset.from_list(told),
            processing_class=tokenizer,
        )
        with caplog.at_level(logging.WARNING):
            trainer.train()
        tokens = dict.fromkeys(("en", "zh", "ru"), 0)
        for row in rows:
            tokens[row["language"]] += len(tokenizer(row["completion"] + "<eos>")["input_ids"])
        total = sum(tokens.values())
        log = trainer.state.log_history[0]
        assert log["sasft_penalised_share"] == pytest.approx(tokens["en"] / total)
        assert log["sasft_unknown_share"] == pytest.approx(tokens["ru"] / total)
        assert sum("could not be told" in record.message for record in caplog.records) == 1


class TestLanguages:
    def test_a_users_function_decides_where_there_is_no_column(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        shapes = []

        def all_chinese(inputs: Any) -> list[str | None]:
            shapes.append(tuple(inputs["input_ids"].shape))
            return ["zh"] * len(inputs["input_ids"])

        trainer = SFTTrainer(
            make_model(),
            SFTConfig(**one_step_arguments(tmp_path, per_device_train_batch_size=8)),
            train_dataset=dataset.remove_columns("language"),
            processing_class=tokenizer,
        )
        callback = SASFTCallback(features, suppress="zh", weight=1.0, language_of=all_chinese)
        trainer.add_callback(callback.set_trainer(trainer))
        trainer.train()
        assert shapes[0][0] == 8
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0

    def test_a_function_that_gives_too_few_languages_is_an_error(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        trainer = SFTTrainer(
            make_model(),
            SFTConfig(**one_step_arguments(tmp_path, per_device_train_batch_size=8)),
            train_dataset=dataset.remove_columns("language"),
            processing_class=tokenizer,
        )
        callback = SASFTCallback(features, suppress="zh", weight=1.0, language_of=lambda inputs: ["zh"])
        trainer.add_callback(callback.set_trainer(trainer))
        with pytest.raises(ValueError, match="gave 1 languages for a batch of 8 segments"):
            trainer.train()

    def test_wrapped_packing_carries_the_column_on_the_trainer_route(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        args = one_step_arguments(
            tmp_path, per_device_train_batch_size=8, packing=True, packing_strategy="wrapped", max_length=16
        )
        trainer = with_trainer(
            make_model(), features, ["zh"], 0.5, args=args, train_dataset=dataset, processing_class=tokenizer
        )
        packed = trainer.train_dataset
        chinese = {tokenizer.convert_tokens_to_ids(word) for word in ("猫", "看见", "一个", "小", "房子", "唱歌")}
        for row in packed:
            for token, language in zip(row["input_ids"], row[LANGUAGE_IDS], strict=True):
                assert token not in chinese or CODES[language] == "zh"
        trainer.train()
        assert 0 < trainer.state.log_history[0]["sasft_penalised_share"] < 1

    def test_a_relative_lends_its_baseline(self, features: FeatureSet) -> None:
        penalty = build_penalty(features.layers[0], ["zh"], "mean", "raw")
        assert torch.equal(penalty.baseline_LF[CODES.index("uk")], penalty.baseline_LF[CODES.index("ru")])
        assert penalty.known_L[CODES.index("uk")]

    def test_a_language_without_a_baseline_is_penalised_against_zero_only(self, features: FeatureSet) -> None:
        thai = CODES.index("th")
        assert not build_penalty(features.layers[0], ["zh"], "mean", "raw").weight_LF[thai].any()
        zero = build_penalty(features.layers[0], ["zh"], "zero", "raw")
        assert zero.weight_LF[thai].all()
        assert not zero.baseline_LF.any()

    def test_typical_scale_divides_by_the_typical_activation(self, features: FeatureSet) -> None:
        layer = features.layers[0]
        raw, typical = (build_penalty(layer, ["zh"], "mean", scale) for scale in ("raw", "typical"))
        english = CODES.index("en")
        assert torch.allclose(typical.weight_LF[english], raw.weight_LF[english] / layer.typical[:2])
        assert raw.weight_LF[english].tolist() == [0.5, 0.5]
        assert raw.weight_LF[CODES.index("zh")].tolist() == [0, 0]
        assert raw.weight_LF[-1].tolist() == [0, 0]


class TestAttachment:
    def test_the_callback_finds_its_trainer(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        trainer = SFTTrainer(
            make_model(),
            SFTConfig(**one_step_arguments(tmp_path, per_device_train_batch_size=8)),
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[SASFTCallback(features, suppress="zh", weight=1.0)],
        )
        trainer.train()
        assert trainer.state.log_history[0]["sasft_loss"] > 0

    @both_routes
    def test_training_twice_hooks_once(
        self,
        route: Route,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        args = one_step_arguments(tmp_path, per_device_train_batch_size=8)
        trainer = route(
            make_model(), features, ["zh"], 1.0, args=args, train_dataset=dataset, processing_class=tokenizer
        )
        for _ in range(2):
            trainer.train()
            assert trainer.state.log_history[0]["sasft_loss"] > 0
            assert not any(block._forward_hooks for block in decoder_blocks(trainer.model))

    def test_an_exception_leaves_no_hooks_on_the_trainer_route(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        def broken(inputs: Any) -> list[str | None]:
            raise RuntimeError("the user's own bug")

        trainer = SASFTTrainer(
            make_model(),
            SASFTConfig(**one_step_arguments(tmp_path), suppress=["zh"]),
            features=features,
            language_of=broken,
            train_dataset=dataset.remove_columns("language"),
            processing_class=tokenizer,
        )
        with pytest.raises(RuntimeError, match="the user's own bug"):
            trainer.train()
        assert not any(block._forward_hooks for block in decoder_blocks(trainer.model))

    def test_the_model_card_names_the_method(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        args = one_step_arguments(tmp_path)
        trainer = with_trainer(
            make_model(), features, ["zh"], 1.0, args=args, train_dataset=dataset, processing_class=tokenizer
        )
        trainer.create_model_card()
        card = (tmp_path / "README.md").read_text()
        assert "SASFT" in card
        assert "2507.14894" in card
        assert "sae-posttrain" in card


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"weight": -1.0}, "weight=-1.0"),
            ({"weight": math.nan}, "weight=nan"),
            ({"baseline": "median"}, "baseline='median'"),
            ({"scale": "unit"}, "scale='unit'"),
            ({"suppress": []}, "suppress is empty"),
            ({"suppress": "klingon"}, "klingon"),
            ({"suppress": "ko"}, "No feature stands for ko"),
        ],
    )
    def test_settings(self, changes: dict[str, Any], message: str, features: FeatureSet) -> None:
        with pytest.raises(ValueError, match=message):
            SASFTCallback(features, **{"suppress": "zh", **changes})

    def attach(
        self,
        model: nn.Module,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        folder: Path,
        **changes: Any,
    ) -> SFTTrainer:
        args = one_step_arguments(folder, **changes)
        return with_callback(model, features, ["zh"], 1.0, args=args, train_dataset=dataset, processing_class=tokenizer)

    def test_features_of_another_model(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(ValueError, match="the model has 2 layers of width 16"):
            self.attach(make_model(num_hidden_layers=2), features, tokenizer, dataset, tmp_path)

    def test_frozen_layers(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[2])
        with pytest.raises(ValueError, match="Every trainable parameter sits above layer 1"):
            self.attach(get_peft_model(make_model(), adapter), features, tokenizer, dataset, tmp_path)
        upper = replace(features, layers=features.layers[1:])
        self.attach(get_peft_model(make_model(), adapter), upper, tokenizer, dataset, tmp_path).train()

    def test_wrapped_packing_on_the_callback_route(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        settings = {"packing": True, "packing_strategy": "wrapped", "max_length": 16}
        with pytest.raises(ValueError, match="no boundary between examples"):
            self.attach(make_model(), features, tokenizer, dataset, tmp_path, **settings)

    def test_a_dataset_without_usable_labels(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        tmp_path: Path,
    ) -> None:
        blank = Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [-100] * 3}] * 4)
        settings = {"max_length": None}
        with pytest.raises(ValueError, match="No token of the training set has a label"):
            self.attach(make_model(), features, tokenizer, blank, tmp_path, **settings)

    def test_an_unknown_code_in_the_language_column(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        rows: list[dict[str, Any]],
        tmp_path: Path,
    ) -> None:
        dataset = Dataset.from_list([*rows, {**rows[0], "language": "chinglish"}])
        with pytest.raises(ValueError, match="chinglish"):
            self.attach(make_model(), features, tokenizer, dataset, tmp_path)

    def test_a_second_callback(
        self,
        make_model: MakeModel,
        features: FeatureSet,
        tokenizer: PreTrainedTokenizerFast,
        dataset: Dataset,
        tmp_path: Path,
    ) -> None:
        trainer = self.attach(make_model(), features, tokenizer, dataset, tmp_path)
        with pytest.raises(ValueError, match="already has SASFT"):
            SASFTCallback(features, suppress="ru").set_trainer(trainer)

    def test_a_config_without_features(self, make_model: MakeModel, tmp_path: Path, dataset: Dataset) -> None:
        with pytest.raises(ValueError, match="No features"):
            SASFTTrainer(make_model(), SASFTConfig(**one_step_arguments(tmp_path), suppress=["zh"]))
