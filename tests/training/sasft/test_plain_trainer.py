"""The callback on a plain `transformers.Trainer`: datasets of a user's own, and what is refused; runs without TRL."""

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForSeq2Seq

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft.batch import whole_labels
from sae_posttrain.training.sasft.checks import check_labels
from sae_posttrain.training.sasft.segments import LANGUAGE_IDS, LanguageCollator, columns_of, language_id, segments_of

from .plain import tokenised, with_plain, without
from .world import World

DOCS = Path(__file__).parents[3] / "docs" / "sasft.md"


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset of a user's own, which draws random numbers whenever a row is asked for."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        random.random(), np.random.rand(), torch.rand(1)
        return self.rows[index]


class Stream(torch.utils.data.IterableDataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def all_chinese(world: World) -> list[dict[str, Any]]:
    """A column that contradicts the scripts: whoever does not read it penalises the rows."""
    return [{**row, "language": "zh"} for row in tokenised(world)[0]]


class TestDataset:
    @pytest.mark.parametrize(
        "kind", [Dataset.from_list, list, Rows, Stream], ids=["datasets", "list", "class", "stream"]
    )
    def test_its_language_column_decides(self, kind: Any, world: World) -> None:
        trainer = world.run(with_plain, dataset=kind(all_chinese(world)))
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["sasft_by_column_share"] == 1
        assert log["sasft_penalised_share"] == 0

    @pytest.mark.parametrize("kind", [list, Rows, Stream], ids=["list", "class", "stream"])
    def test_without_one_the_script_decides(self, kind: Any, world: World) -> None:
        rows = [{k: v for k, v in row.items() if k != "language"} for row in tokenised(world)[0]]
        trainer = world.run(with_plain, dataset=kind(rows))
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["sasft_by_script_share"] == 1
        assert log["sasft_penalised_share"] > 0

    def test_a_look_at_its_first_row_draws_no_random_numbers(self, world: World) -> None:
        def draw() -> tuple[float, float, float]:
            return random.random(), float(np.random.rand()), float(torch.rand(1))

        def seed() -> None:
            random.seed(0), np.random.seed(0), torch.manual_seed(0)

        seed()
        expected = draw()
        seed()
        assert "language" in columns_of(Rows(all_chinese(world)))
        assert draw() == expected

    def test_a_wrong_code_is_named_with_its_row(self, world: World) -> None:
        rows = all_chinese(world)
        rows[3]["language"] = "chinglish"
        with pytest.raises(ValueError, match=r"Row 4 of the training set.*unknown language 'chinglish'"):
            world.run(with_plain, dataset=rows)

    def test_no_label_at_all(self, world: World) -> None:
        rows = [{**row, "labels": [-100] * len(row["labels"])} for row in all_chinese(world)]
        with pytest.raises(ValueError, match="No token of the training set has a label"):
            world.run(with_plain, dataset=rows)

    def test_rows_that_are_not_mappings_are_the_collators_matter(self) -> None:
        check_labels([torch.tensor([3, 4]), torch.tensor([5])])

    def test_no_tokenizer_and_no_column(self, world: World) -> None:
        for rows, told in ((all_chinese(world), True), ([{"input_ids": [3, 4], "labels": [3, 4]}], False)):
            trainer = world.run(without, dataset=rows)
            trainer.processing_class = None
            callback = SASFTCallback(world.features, suppress="zh")
            if told:
                callback.set_trainer(trainer)
            else:
                with pytest.raises(ValueError, match="The languages of the samples cannot be found"):
                    callback.set_trainer(trainer)

    def test_a_callback_that_comes_too_late_for_its_column_says_so(self, world: World) -> None:
        trainer = world.run(without, dataset=Rows(all_chinese(world)))
        trainer.add_callback(SASFTCallback(world.features, suppress="zh"))
        with pytest.raises(ValueError, match=r"call callback.set_trainer\(trainer\) before trainer.train"):
            trainer.train()


@pytest.mark.filterwarnings("ignore:These features were found in:UserWarning")
def test_the_documented_example(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = DOCS.read_text(encoding="utf-8").split("## Train with a plain Trainer")[1]
    found = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert found is not None
    code = found[1].replace('TrainingArguments("runs/sasft")', "TrainingArguments(**settings)")
    assert code != found[1]
    monkeypatch.chdir(tmp_path)
    world.make_model().save_pretrained("Qwen/Qwen3-1.7B-Base")
    world.tokenizer.save_pretrained("Qwen/Qwen3-1.7B-Base")
    world.features.save("features/qwen3-1.7b-base.safetensors")
    rows = [{"prompt": r["prompt"], "answer": r["completion"], "language": r["language"]} for r in world.dataset]
    names: dict[str, Any] = {"rows": rows, "settings": world.arguments()}
    exec(code, names)
    log = names["trainer"].state.log_history[0]
    assert log["sasft_by_column_share"] == 1
    assert log["sasft_loss"] > 0


class TestLabels:
    IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
    WHOLE = torch.tensor([[-100, -100, 7, -100, 9, 10]])

    def check(self, **changes: Any) -> None:
        assert whole_labels({"input_ids": self.IDS, **changes}).tolist() == self.WHOLE.tolist()

    def test_whole_ones_stay(self) -> None:
        for kept in ({}, {"logits_to_keep": 0}, {"logits_to_keep": 7}):
            self.check(labels=self.WHOLE, **kept)

    def test_the_last_positions(self) -> None:
        self.check(labels=self.WHOLE[:, -5:], logits_to_keep=5)

    def test_a_mask_or_indices_of_positions(self) -> None:
        mask = torch.tensor([False, True, False, True, True, True])
        cut = torch.tensor([[-100, 7, 9, 10]])
        self.check(labels=cut, logits_to_keep=mask)
        self.check(labels=cut, logits_to_keep=mask.nonzero().squeeze(-1))

    def test_nothing_is_predicted_after_the_last_kept_position(self) -> None:
        """Not even where others follow it: the model's loss drops the last logits."""
        mask = torch.tensor([False, True, False, True, True, False])
        cut = torch.tensor([[-100, 7, 9]])
        whole = whole_labels({"input_ids": self.IDS, "labels": cut, "logits_to_keep": mask})
        assert whole.tolist() == [[-100, -100, 7, -100, 9, -100]]

    def test_shifted_ones(self) -> None:
        shifted = torch.tensor([[-100, 7, -100, 9, 10, -100]])
        self.check(labels=torch.full_like(self.IDS, 4), shift_labels=shifted)

    @pytest.mark.parametrize("labels", [torch.tensor([1]), torch.tensor([[1, 2]]), torch.ones(2, 6, dtype=torch.long)])
    def test_others_are_refused(self, labels: Tensor) -> None:
        with pytest.raises(ValueError, match=r"for tokens of shape \(1, 6\)"):
            whole_labels({"input_ids": self.IDS, "labels": labels})


class TestPacks:
    """Lists of examples, of which each becomes a row."""

    PACKS = [  # noqa: RUF012
        [{"input_ids": [1, 2], "language": "ru"}, {"input_ids": [3], "language": "en"}],
        [{"input_ids": [4, 5, 6, 7], "language": "zh"}],
    ]

    @staticmethod
    def collate(left: bool, packs: list[list[dict[str, Any]]]) -> Mapping[str, Tensor]:
        assert all(set(example) == {"input_ids"} for pack in packs for example in pack)
        rows = [[token for example in pack for token in example["input_ids"]] for pack in packs]
        pads = [[0] * (5 - len(row)) for row in rows]
        ids = torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    @pytest.mark.parametrize("left", [False, True], ids=["padded on the right", "padded on the left"])
    def test_each_token_has_the_language_of_its_example(self, left: bool) -> None:
        batch = LanguageCollator(lambda packs: dict(self.collate(left, packs)), "language")(self.PACKS)
        ru, en, zh = language_id("ru"), language_id("en"), language_id("zh")
        first = [-1, -1, ru, ru, en] if left else [ru, ru, en, -1, -1]
        assert batch[LANGUAGE_IDS].tolist() == [first, [zh] * 5]

    def test_an_attention_mask_may_number_the_examples(self) -> None:
        mask = torch.tensor([[0, 1, 1, 2, 3], [1, 1, 1, 0, 0]])
        inputs = {"input_ids": torch.ones_like(mask), "attention_mask": mask}
        assert segments_of(inputs).tolist() == [[0, 0, 0, 1, 2], [3] * 5]


def test_a_checkpoint_of_the_frameworks_own_that_hides_the_gradient(world: World) -> None:
    """Refused in the first batch, before any step."""
    model = world.make_model()
    for block in model.model.layers:
        hide(block)
    trainer = world.run(with_plain, model=model, dataset=tokenised(world)[0])
    with pytest.raises(RuntimeError, match="They did run, but without a gradient"):
        trainer.train()
    assert trainer.state.global_step == 0


def hide(block: torch.nn.Module) -> None:
    """Reentrant checkpointing around a whole block with its hooks, by other code than that of transformers."""
    inner = block._call_impl

    def call(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def run(states: Tensor) -> Any:
            return inner(states, *args, **kwargs)

        return torch.utils.checkpoint.checkpoint(run, hidden, use_reentrant=True)

    block._call_impl = call  # type: ignore[method-assign]


def test_the_collators_own_columns_are_left_alone(world: World) -> None:
    seen: list[set[str]] = []

    class Watches(DataCollatorForSeq2Seq):
        def __call__(self, features: Any, return_tensors: Any = None) -> Any:
            seen.append(set(features[0]))
            return super().__call__(features, return_tensors)

    trainer = world.run(with_plain, dataset=all_chinese(world), collator=Watches)
    trainer.train()
    assert seen == [{"input_ids", "labels"}]
