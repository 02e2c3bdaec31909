"""Which language a batch's tokens are taken for, and what each language's tokens are compared with."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset, Value
from torch import Tensor

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft import checks
from sae_posttrain.training.sasft.segments import (
    CODES,
    LANGUAGE_IDS,
    LanguageCollator,
    language_id,
    segments_of,
)

from .routes import plain, with_callback, with_trainer
from .world import Route, World


def test_segments_start_at_rows_and_at_position_zero() -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    packed = torch.tensor([[0, 1, 0, 1], [3, 4, 5, 0]])  # the second row begins inside an example
    assert segments_of({"input_ids": ids}).tolist() == [[0] * 4, [1] * 4]
    for positions in (packed, packed.expand(3, 2, 4)):
        inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids)}
        assert segments_of(inputs).tolist() == [[0, 0, 1, 1], [2, 2, 2, 3]]


class TestCollator:
    def test_padded_rows(self) -> None:
        def pad(examples: list[dict[str, Any]]) -> dict[str, Any]:
            assert all("language" not in example for example in examples)
            return {"input_ids": torch.zeros(len(examples), 4, dtype=torch.long)}

        batch = LanguageCollator(pad, "language")(
            [{"input_ids": [1, 2, 3, 4], "language": "zh-Hant"}, {"input_ids": [1], "language": None}]
        )
        assert batch[LANGUAGE_IDS].tolist() == [[language_id("zh")] * 4, [-1] * 4]

    def test_padding_on_the_left_and_rows_cut_short(self) -> None:
        """One code holds for its whole row, wherever the collator put what."""
        collator = LanguageCollator(lambda examples: {"input_ids": torch.zeros(2, 3, dtype=torch.long)}, "language")
        batch = collator([{"text": "tokenised later", "language": "ru"}, {"input_ids": [1] * 9, "language": "en"}])
        assert batch[LANGUAGE_IDS].tolist() == [[language_id("ru")] * 3, [language_id("en")] * 3]

    def test_flattened_rows(self) -> None:
        collator = LanguageCollator(lambda examples: {"input_ids": torch.zeros(1, 4, dtype=torch.long)}, "language")
        batch = collator([{"input_ids": [1, 2], "language": "ru"}, {"input_ids": [1], "language": "en"}])
        assert batch[LANGUAGE_IDS].tolist() == [[language_id("ru")] * 2 + [language_id("en"), -1]]

    def test_rows_without_the_column_pass_through(self) -> None:
        collator = LanguageCollator(lambda examples: {"input_ids": torch.zeros(1, 2)}, "language")
        assert LANGUAGE_IDS not in collator([{"input_ids": [1, 2]}])


class TestUsersFunction:
    def train(self, world: World, language_of: Any) -> dict[str, float]:
        trainer = world.run(plain, dataset=world.dataset.remove_columns("language"))
        callback = SASFTCallback(world.features, suppress="zh", weight=1.0, language_of=language_of)
        trainer.add_callback(callback.set_trainer(trainer))
        trainer.train()
        return trainer.state.log_history[0]

    def test_it_decides(self, world: World) -> None:
        def all_chinese(inputs: Mapping[str, Tensor]) -> list[str | None]:
            return ["zh"] * len(inputs["input_ids"])

        assert self.train(world, all_chinese)["sasft_penalised_share"] == 0

    def test_none_leaves_it_to_the_script(self, world: World) -> None:
        def undecided(inputs: Mapping[str, Tensor]) -> list[str | None]:
            return [None] * len(inputs["input_ids"])

        log = self.train(world, undecided)
        assert log["sasft_unknown_share"] == 0
        assert 0 < log["sasft_penalised_share"] < 1

    def test_too_few_languages(self, world: World) -> None:
        with pytest.raises(ValueError, match="gave 1 languages for a batch of 8 segments"):
            self.train(world, lambda inputs: ["zh"])


def test_wrapped_packing_carries_the_column_on_the_trainer_route(world: World) -> None:
    trainer = world.run(with_trainer, packing=True, packing_strategy="wrapped", max_length=16)
    chinese = {world.tokenizer.convert_tokens_to_ids(word) for word in ("猫", "看见", "一个", "小", "房子", "唱歌")}
    seen = 0
    for row in trainer.train_dataset:
        for token, language in zip(row["input_ids"], row[LANGUAGE_IDS], strict=True):
            assert token not in chinese or CODES[language] == "zh"
            seen += token in chinese
    assert seen > 0
    trainer.train()
    assert 0 < trainer.state.log_history[0]["sasft_penalised_share"] < 1


def everything_is_chinese(world: World) -> Dataset:
    """A column that contradicts the scripts: whoever does not read it penalises the rows."""
    return world.dataset.map(lambda row: {"language": "zh"})


SETTINGS: dict[str, dict[str, Any]] = {
    "padded": {},
    "padding-free": {"padding_free": True, "max_length": None},
    "streamed": {"shuffle_dataset": False},
}


class TestColumn:
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize("route", [with_callback, with_trainer])
    def test_it_decides(self, route: Route, name: str, world: World) -> None:
        dataset = everything_is_chinese(world)
        streamed = dataset.to_iterable_dataset().map(lambda row: row) if name == "streamed" else dataset
        trainer = world.run(route, dataset=streamed, **SETTINGS[name])
        trainer.train()
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0

    def test_it_decides_for_rows_that_came_prepared(self, world: World) -> None:
        prepared = world.run(plain, dataset=everything_is_chinese(world)).train_dataset
        trainer = world.run(with_trainer, dataset=prepared, dataset_kwargs={"skip_prepare_dataset": True})
        trainer.train()
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0

    def test_an_evaluation_set_called_train_changes_nothing(self, world: World) -> None:
        evaluation = {"train": world.dataset.remove_columns("language")}
        trainer = world.run(
            with_trainer,
            dataset=everything_is_chinese(world),
            eval_dataset=evaluation,
            packing=True,
            eval_packing=True,
            max_length=24,
        )
        trainer.train()
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0
        assert trainer.evaluate()["eval_train_loss"] > 0

    def test_it_may_come_from_pandas(self, world: World) -> None:
        large = everything_is_chinese(world).cast_column("language", Value("large_string"))
        trainer = world.run(with_callback, dataset=large)
        trainer.train()
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0

    def test_it_survives_packing_on_the_trainer_route(self, world: World) -> None:
        trainer = world.run(with_trainer, dataset=everything_is_chinese(world), packing=True, max_length=24)
        trainer.train()
        assert trainer.state.log_history[0]["sasft_penalised_share"] == 0

    @pytest.mark.parametrize("route", [with_callback, with_trainer])
    def test_what_it_leaves_open_is_told_by_script(self, route: Route, world: World) -> None:
        """Empty values are as good as no column; the run is the one without it."""
        logs = []
        bare = world.dataset.remove_columns("language")
        empty = bare.add_column("language", [None] * len(bare))
        assert empty.features["language"].dtype == "null"
        for dataset in (empty, bare):
            trainer = world.run(route, dataset=dataset)
            trainer.train()
            logs.append(trainer.state.log_history[0])
        for key in ("loss", "sasft_loss", "sasft_penalised_share", "sasft_unknown_share"):
            assert logs[0][key] == logs[1][key]
        assert logs[0]["sasft_unknown_share"] == 0

    @pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 24}], ids=["padded", "packed"])
    def test_a_streamed_row_may_lack_it(self, settings: dict[str, Any], world: World) -> None:
        """The other rows keep theirs; this one is told by script."""
        rows = list(everything_is_chinese(world))
        assert world.dataset[3]["language"] == "en"
        del rows[3]["language"]
        streamed = IterableDataset.from_generator(lambda: iter(rows))
        trainer = world.run(with_trainer, dataset=streamed, shuffle_dataset=False, **settings)
        trainer.train()
        logged = trainer.state.log_history[0]
        assert logged["sasft_unknown_share"] == 0
        assert 0 < logged["sasft_penalised_share"] < 0.5

    @pytest.mark.parametrize("value", [3, ["en"], "chinglish"])
    @pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 24}], ids=["padded", "packed"])
    def test_a_streamed_value_that_is_no_code(self, settings: dict[str, Any], value: Any, world: World) -> None:
        rows = [{**row, "language": value} for row in world.dataset]
        streamed = IterableDataset.from_generator(lambda: iter(rows))
        with pytest.raises(ValueError, match=r"Column 'language': .* Rename the column if it is about something else"):
            world.run(with_trainer, dataset=streamed, shuffle_dataset=False, **settings).train()

    @pytest.mark.parametrize("route", [with_trainer, with_callback])
    def test_a_wrong_code_is_met_before_training_and_named_with_its_row(self, route: Route, world: World) -> None:
        rows = [dict(row) for _ in range(8) for row in world.dataset][:40]
        rows[25]["language"] = "chinglish"
        stored = Dataset.from_list(rows)
        for dataset in (stored, stored.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))):
            with pytest.raises(ValueError, match=r"Row 26 of the training set.*unknown language 'chinglish'"):
                world.run(route, dataset=dataset, shuffle_dataset=False)

    @pytest.mark.parametrize("route", [with_trainer, with_callback])
    def test_a_wrong_code_far_down_a_stream_is_named_when_it_comes(
        self, route: Route, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "PEEKED_ROWS", 3)
        rows = [dict(row) for row in world.dataset]
        rows[3]["language"] = "chinglish"
        streamed = IterableDataset.from_generator(lambda: iter(rows))
        trainer = world.run(route, dataset=streamed, shuffle_dataset=False)
        with pytest.raises(ValueError, match=r"Row 4 of the training set.*unknown language 'chinglish'"):
            trainer.train()

    def test_a_stream_of_several_shards_does_not_number_its_rows(self, world: World) -> None:
        rows = [{**row, "language": "chinglish"} for row in world.dataset]
        streamed = Dataset.from_list(rows).to_iterable_dataset(num_shards=2)
        with pytest.raises(ValueError, match="Some row of the training set"):
            world.run(with_trainer, dataset=streamed, shuffle_dataset=False)

    def test_a_callback_that_comes_too_late_for_it_says_so(self, world: World) -> None:
        trainer = world.run(plain)
        trainer.add_callback(SASFTCallback(world.features, suppress="zh"))
        with pytest.raises(ValueError, match=r"call callback.set_trainer\(trainer\) before trainer.train"):
            trainer.train()
