"""By what a token's language was told: the column, the user's function, or the script; and what is said of it."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

from sae_posttrain import SASFTCallback
from sae_posttrain.training.sasft.segments import CODES, UNKNOWN, language_id
from sae_posttrain.training.sasft.telling import LanguageTeller

from .routes import plain, with_callback, with_trainer
from .test_identifier import CODE, TEXTS, batch, byte_level_tokenizer
from .world import Route, World

CODED = f"{TEXTS['zh']}\n```python\n{CODE}```"


def counts(counted: Tensor) -> dict[str, float]:
    return dict(zip(LanguageTeller.counted, counted.tolist(), strict=True))


def test_the_column_comes_first_then_the_function_then_the_script() -> None:
    tokenizer = byte_level_tokenizer()
    inputs = batch(tokenizer, [TEXTS["en"], TEXTS["en"], TEXTS["ru"], "1 2"])
    labelled_BS = inputs["labels"] != -100
    told_BS = torch.full_like(inputs["labels"], UNKNOWN)
    told_BS[0] = language_id("ko")
    seen = []

    def language_of(batch_inputs: Mapping[str, Tensor]) -> list[str | None]:
        seen.append(len(batch_inputs["labels"]))
        return ["ja", "th", None, None]

    teller = LanguageTeller(tokenizer, ["en", "ru"], language_of)
    language_BS, counted = teller.tell(inputs, told_BS, labelled_BS)
    first = [language_BS[row][labelled_BS[row]].unique().tolist() for row in range(4)]
    assert first == [[language_id("ko")], [language_id("th")], [language_id("ru")], [UNKNOWN]]
    assert seen == [4]
    tokens = labelled_BS.sum(1).tolist()
    expected = {"by_column": tokens[0], "by_function": tokens[1], "by_script": tokens[2]}
    assert counts(counted) == {**expected, "answers": 1, "margin": 1, "close": 0}


def test_margins_say_how_clear_answers_were() -> None:
    tokenizer = byte_level_tokenizer()
    inputs = batch(tokenizer, [TEXTS["ru"], f"{TEXTS['ru']} " * 2 + TEXTS["en"], TEXTS["ru"]])
    teller = LanguageTeller(tokenizer, ["en", "ru"])
    total = counts(teller.tell(inputs, None, inputs["labels"] != -100)[1])
    logs = teller.metrics(total, float((inputs["labels"] != -100).sum()))
    assert total["answers"] == 3
    assert total["close"] == 1
    assert logs["sasft_by_script_share"] == 1
    assert logs["sasft_script_close_share"] == pytest.approx(1 / 3)
    assert 0.5 < logs["sasft_script_margin"] < 0.8


def test_answers_in_the_suppressed_language_around_code_are_not_penalised(world: World) -> None:
    """What the column would have said: without it, code must not make Chinese English."""
    rows = [{"prompt": "the cat", "completion": f" ``` {'the house ' * 8}``` 猫 看见 一个 小 房子 并且 唱歌"}] * 8
    words = f"``` {' '.join(row['completion'] for row in rows)}".split()
    tokenizer = word_tokenizer_with(world, words)
    logs = []
    for route in (with_callback, with_trainer):
        other = World(tokenizer, world.features, Dataset.from_list(rows), world.folder)
        trainer = other.run(route)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    for log in logs:
        assert log["sasft_penalised_share"] == 0
        assert log["sasft_unknown_share"] == 0
        assert log["sasft_by_script_share"] == 1


def word_tokenizer_with(world: World, words: list[str]) -> Any:
    tokenizer = type(world.tokenizer)(tokenizer_object=world.tokenizer.backend_tokenizer, pad_token="<pad>")
    tokenizer.add_special_tokens({"eos_token": "<eos>", "unk_token": "<unk>"})
    tokenizer.add_tokens(sorted({*words} - set(world.tokenizer.get_vocab())))
    return tokenizer


@pytest.mark.parametrize("route", [with_callback, with_trainer])
@pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 24}], ids=["padded", "packed"])
def test_shares_by_what_told(route: Route, settings: dict[str, Any], world: World) -> None:
    for column in (True, False):
        dataset = world.dataset if column else world.dataset.remove_columns("language")
        if column and settings and route is with_callback:
            continue  # packing drops the column there
        trainer = world.run(route, dataset=dataset, **settings)
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["sasft_by_column_share"] == column
        assert log["sasft_by_script_share"] == (not column)
        assert ("sasft_script_margin" in log) == (not column)


def test_nothing_is_read_in_evaluation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = world.dataset.remove_columns("language")
    trainer = world.run(with_trainer, dataset=bare, eval_dataset=bare)

    def refuse(*args: Any) -> None:
        raise AssertionError("told in evaluation")

    monkeypatch.setattr(LanguageTeller, "tell", refuse)
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(AssertionError, match="told in evaluation"):
        trainer.train()


def test_a_column_that_tells_everything_leaves_nothing_to_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = world.run(with_trainer)
    monkeypatch.setattr(type(trainer.sasft._teller._identify), "__call__", None)
    trainer.train()
    assert trainer.state.log_history[0]["sasft_by_column_share"] == 1


class TestDescription:
    def rows(self) -> list[dict[str, Any]]:
        tokenizer = byte_level_tokenizer()
        texts = [CODED, TEXTS["en"], TEXTS["ru"], "42"]
        return [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]

    def said(self, dataset: Any, caplog: pytest.LogCaptureFixture, language_of: Any = None) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sae_posttrain"):
            LanguageTeller(byte_level_tokenizer(), ["en", "zh", "ru"], language_of).describe(dataset)
        return [record.getMessage() for record in caplog.records]

    def test_code_without_a_column_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        (message,) = self.said(Dataset.from_list(self.rows()), caplog)
        assert "1 of its first 4 answers contain code" in message
        assert "zh 1, en 1, ru 1, unknown 1" in message
        stream = IterableDataset.from_generator(lambda: iter(self.rows()))
        assert self.said(stream, caplog) == [message]

    def test_packed_rows_are_taken_apart(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = self.rows()
        ids = [token for row in rows for token in row["input_ids"]]
        packed = {"input_ids": ids, "labels": ids, "seq_lengths": [len(row["input_ids"]) for row in rows]}
        (message,) = self.said(Dataset.from_list([packed]), caplog)
        assert "1 of its first 4 answers contain code" in message

    def test_nothing_to_say(self, caplog: pytest.LogCaptureFixture) -> None:
        assert self.said(Dataset.from_list(self.rows()[1:]), caplog) == []  # no code
        assert self.said(Dataset.from_list(self.rows()), caplog, lambda inputs: []) == []  # the user's own function
        assert self.said(Dataset.from_list([{"text": CODED}]), caplog) == []  # not prepared
        assert self.said(None, caplog) == []

    @pytest.mark.parametrize("route", ["callback", "trainer"])
    def test_a_run_says_it(self, route: str, world: World, caplog: pytest.LogCaptureFixture) -> None:
        rows = [{**row, "completion": f"{row['completion']} `the cat`"} for row in world.dataset]
        tokenizer = word_tokenizer_with(world, ["`the", "cat`"])
        for columns, number in ((["prompt", "completion"], 1), (["prompt", "completion", "language"], 0)):
            other = World(tokenizer, world.features, Dataset.from_list(rows).select_columns(columns), world.folder)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "sae_posttrain"):
                if route == "trainer":
                    other.run(with_trainer)
                else:
                    trainer = other.run(plain)
                    SASFTCallback(world.features, suppress="zh").set_trainer(trainer)
            assert sum("contain code" in message for message in caplog.messages) == number


def test_every_code_has_a_row() -> None:
    assert language_id("zh") == CODES.index("zh")
