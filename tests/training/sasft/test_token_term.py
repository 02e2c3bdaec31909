"""The token term in a run: what is exempt, what is drawn, what is logged, and what it needs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_models import MODELS, TEXT, make
from torch import nn

from sae_posttrain import FeatureSet, SASFTCallback, SASFTConfig, SASFTTrainer
from sae_posttrain.residual import decoder
from sae_posttrain.training.sasft import head
from sae_posttrain.training.sasft.head import check_logits, transform_of
from sae_posttrain.training.sasft.token_term import TokenTerm

from .exactness import TOKEN_WEIGHT, Example, Row, answers, difference, moved, reference, relative_error
from .routes import plain, with_callback, with_trainer
from .world import Route, World

both_routes = pytest.mark.parametrize("route", [with_callback, with_trainer])
HARDER = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "packing": True, "max_length": 24}


def logged(world: World, route: Route = with_trainer, **settings: Any) -> dict[str, float]:
    trainer = world.run(route, weight=0.0, **settings)
    trainer.train()
    return {k: v for k, v in trainer.state.log_history[0].items() if k.startswith("sasft_token")}


def with_names(world: World) -> tuple[Any, list[Example]]:
    """Answers in English and Russian that quote Chinese, and a Chinese one that quotes English."""
    lines = [
        ("en", "the cat", " the 猫 sees a 小 house <eos>"),
        ("ru", "кошка", " кошка 唱歌 唱歌 дом <eos>"),
        ("zh", "猫", " 猫 sees 房子 <eos>"),
        ("en", "猫 看见", " the house <eos>"),
    ]
    rows = [{"language": code, "prompt": prompt, "completion": answer} for code, prompt, answer in lines]
    examples: list[Example] = []
    for row in rows:
        ids = world.tokenizer(row["prompt"] + row["completion"])["input_ids"]
        prompt = len(world.tokenizer(row["prompt"])["input_ids"])
        examples.append((ids, [-100] * prompt + ids[prompt:], row["language"]))
    return Dataset.from_list(rows), examples


@pytest.mark.parametrize("suppress", [("zh",), ("zh", "ru")])
@pytest.mark.parametrize(
    ("route", "settings"),
    [
        pytest.param(with_callback, {"per_device_train_batch_size": 4}, id="callback"),
        pytest.param(with_trainer, {"per_device_train_batch_size": 4}, id="trainer"),
        pytest.param(with_trainer, HARDER, id="trainer, packed"),  # the callback would have to tell by script
    ],
)
def test_labels_prompts_and_the_languages_own_answers_are_exempt(
    route: Route, suppress: tuple[str, ...], settings: dict[str, Any], world: World
) -> None:
    row = Row(settings, data=with_names, suppress=suppress)
    added = difference(moved(world, route, row, 0.0, TOKEN_WEIGHT), moved(world, route, row, 0.0))
    expected = difference(reference(world, row, 0.0, TOKEN_WEIGHT), reference(world, row, 0.0))
    assert relative_error(added, expected) <= 1e-5


def test_the_position_before_a_label_is_the_one_that_is_judged(world: World) -> None:
    """One answer of two words, the second Chinese: only what is predicted from the prompt's last token counts."""
    row = {"language": "en", "prompt": "the", "completion": " cat 猫"}
    dataset = Dataset.from_list([row])
    found = logged(world, dataset=dataset, token_weight=0.0, per_device_train_batch_size=1)
    model = world.make_model()
    ids = world.tokenizer(row["prompt"] + row["completion"] + " <eos>")["input_ids"]
    mass_S = model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)[:, world.tokens["zh"]].sum(-1)
    judged = [0, 2]  # the labels at 1 and 3 are no Chinese, "cat" and the end; TRL appends that one
    count = round(found["sasft_token_penalised_share"] * 3)
    assert count in (1, 2)  # whether the tokenizer splits the end off the last word
    assert found["sasft_token_mass_zh"] == pytest.approx(float(mass_S[judged[:count]].mean().detach()), rel=1e-4)


@both_routes
def test_without_features_and_without_a_language_column(route: Route, world: World) -> None:
    """Scripts tell enough: the same gradient as with languages from the column."""

    def without_column(world: World) -> tuple[Any, list[Example]]:
        dataset, examples = answers(world)
        return dataset.remove_columns("language"), examples

    def without_features(model: Any, features: FeatureSet, suppress: Any, weight: float, **kwargs: Any) -> Any:
        return route(model, None, suppress, weight, **kwargs)

    row = Row(HARDER, data=without_column)
    added = difference(*(moved(world, without_features, row, 0.0, weight) for weight in (TOKEN_WEIGHT, 0.0)))
    expected = difference(reference(world, row, 0.0, TOKEN_WEIGHT), reference(world, row, 0.0))
    assert relative_error(added, expected) <= 1e-5


@both_routes
def test_both_terms_add_up(route: Route, world: World) -> None:
    row = Row(HARDER)
    added = difference(moved(world, route, row, 0.7, TOKEN_WEIGHT), moved(world, route, row, 0.0))
    expected = difference(reference(world, row, 0.7, TOKEN_WEIGHT), reference(world, row, 0.0))
    assert relative_error(added, expected) <= 1e-5


class TestShare:
    def test_the_mean_over_draws_is_the_whole(self, world: World) -> None:
        """The loss of a model that stands still, over 30 steps of 4 micro-batches; each draws anew."""
        still = {"learning_rate": 0.0, "max_steps": 30, "logging_steps": 30, "per_device_train_batch_size": 2}
        settings = {**still, "gradient_accumulation_steps": 4, "token_weight": 1.0}
        whole, part = logged(world, **settings), logged(world, **settings, token_share=0.25)
        assert part["sasft_token_loss"] == pytest.approx(whole["sasft_token_loss"], rel=0.05)
        assert part["sasft_token_loss"] != pytest.approx(whole["sasft_token_loss"], rel=1e-4)
        assert part["sasft_token_penalised_share"] == whole["sasft_token_penalised_share"]

    def test_every_position_is_drawn_alike(self) -> None:
        term = TokenTerm(["zh"], 1.0, 0.3)
        drawn = torch.zeros(10)
        for step in range(2000):
            drawn[term._sample(10, (step, 0, 0))] += 1
        assert drawn.sum() == 3 * 2000
        assert drawn.min() > 0.9 * 600
        assert drawn.max() < 1.1 * 600

    def test_the_draw_goes_by_seed_step_micro_batch_and_rank(self) -> None:
        term = TokenTerm(["zh"], 1.0, 0.25)
        first = term._sample(1000, (3, 1, 0))
        assert torch.equal(first, term._sample(1000, (3, 1, 0)))
        for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
            assert not torch.equal(first, term._sample(1000, other))
        term._seed = 1
        assert not torch.equal(first, term._sample(1000, (3, 1, 0)))

    @both_routes
    def test_the_runs_own_random_numbers_are_left_alone(self, route: Route, world: World) -> None:
        after = []
        for share in (1.0, 0.25):
            trainer = world.run(route, token_weight=1.0, token_share=share, max_steps=2)
            trainer.train()
            after.append(torch.get_rng_state())
        assert torch.equal(*after)

    @both_routes
    def test_a_resumed_run_draws_the_same(self, route: Route, world: World) -> None:
        settings: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 4, "token_weight": 1.0}
        settings |= {"token_share": 0.25, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        whole, resumed = (world.run(route, **settings, save_strategy="steps", save_steps=2) for _ in range(2))
        whole.train()
        resumed.train(resume_from_checkpoint=str(world.folder / "checkpoint-2"))
        for name in ("loss", "sasft_token_loss", "sasft_token_mass_zh", "grad_norm"):
            found, expected = ([log[name] for log in one.state.log_history if name in log] for one in (resumed, whole))
            assert found == expected, name


class TestLogs:
    @both_routes
    def test_values_do_not_depend_on_accumulation(self, route: Route, world: World) -> None:
        logs = []
        for batch, accumulation in ((8, 1), (2, 4)):
            settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
            logs.append(logged(world, route, suppress=["zh", "ru"], token_weight=1.0, **settings))
        names = {"loss", "penalised_share", "shared_script_share", "mass_zh", "mass_ru"}
        assert logs[0].keys() == {f"sasft_token_{name}" for name in names}
        assert logs[1] == pytest.approx(logs[0], rel=1e-4)

    def test_the_logged_loss_is_the_difference_to_plain_sft(self, world: World) -> None:
        settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
        ours = world.run(with_callback, weight=0.0, token_weight=0.5, **settings)
        theirs = world.run(plain, **settings)
        ours.train()
        theirs.train()
        first, second = (trainer.state.log_history[0]["loss"] for trainer in (ours, theirs))
        assert first - second == pytest.approx(0.5 * ours.state.log_history[0]["sasft_token_loss"], rel=1e-3)

    def test_training_takes_the_mass_away(self, world: World) -> None:
        adam = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 20, "logging_steps": 1}
        trainer = world.run(with_trainer, weight=0.0, token_weight=10.0, **adam)
        trainer.train()
        masses = [log["sasft_token_mass_zh"] for log in trainer.state.log_history if "sasft_token_mass_zh" in log]
        assert masses[-1] < 0.2 * masses[0]

    def test_a_language_of_the_same_script_is_told(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        rows = [{**row, "language": "ja" if row["language"] == "ru" else row["language"]} for row in world.dataset]
        found = logged(world, dataset=Dataset.from_list(rows), token_weight=1.0)
        assert found["sasft_token_shared_script_share"] > 0.05
        assert any("the script of a token does not distinguish the two" in message for message in caplog.messages)

    def test_the_checkpoint_names_the_settings(self, world: World) -> None:
        trainer = world.run(with_callback, token_weight=2.0, token_share=0.5, save_strategy="steps", save_steps=1)
        trainer.train()
        record = trainer.state.stateful_callbacks["SASFT"]
        assert (record["token_weight"], record["token_share"], record["weight"]) == (2.0, 0.5, 1.0)


class TestHead:
    @pytest.mark.parametrize("name", [name for name in MODELS if name != "Qwen3Model"])
    def test_logits_of_the_architectures(self, name: str) -> None:
        check_logits(make(name).train())

    @pytest.mark.parametrize(
        ("build", "transform"),
        [
            (lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**TEXT, final_logit_softcapping=0.01)), (1.0, 0.01)),
            (lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**TEXT, logits_scaling=8.0)), (1 / 8, None)),
            (lambda: tf.CohereForCausalLM(tf.CohereConfig(**TEXT, logit_scale=0.25)), (0.25, None)),
        ],
        ids=["Gemma 2", "Granite", "Cohere"],
    )
    def test_models_that_transform_their_logits(self, build: Callable[[], Any], transform: Any) -> None:
        torch.manual_seed(0)
        model = build()
        found = transform_of(model)
        assert (found.scale, found.softcap) == transform
        check_logits(model)

    def test_a_model_that_does_more_to_its_logits_is_refused(self) -> None:
        model = make()

        forward = model.forward

        def twice(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.logits = 2 * output.logits
            return output

        model.forward = twice
        with pytest.raises(ValueError, match="does more to its logits than the token term knows"):
            check_logits(model)

    def test_the_check_leaves_the_model_as_it_was(self) -> None:
        model = make().train()
        decoder(model).layers[1].eval()
        before, rng = [module.training for module in model.modules()], torch.get_rng_state()
        check_logits(model)
        assert [module.training for module in model.modules()] == before
        assert torch.equal(torch.get_rng_state(), rng)
        assert not decoder(model)._forward_hooks

    @both_routes
    def test_a_head_with_an_adapter_is_refused(self, route: Route, world: World) -> None:
        untied = world.make_model(tie_word_embeddings=False)
        model = get_peft_model(untied, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
        with pytest.raises(ValueError, match="lm_head"):  # TRL's own refusal, or ours
            world.run(route, model=model, token_weight=1.0)

    @both_routes
    def test_a_head_that_is_trained_as_a_whole(self, route: Route, world: World) -> None:
        def make(world: World) -> nn.Module:
            untied = world.make_model(tie_word_embeddings=False)
            torch.manual_seed(5)
            return get_peft_model(untied, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))

        row = Row(make=make)
        added = difference(moved(world, route, row, 0.0, TOKEN_WEIGHT), moved(world, route, row, 0.0))
        expected = difference(reference(world, row, 0.0, TOKEN_WEIGHT), reference(world, row, 0.0))
        assert any("lm_head" in name and value.any() for name, value in expected.items())
        assert relative_error(added, expected) <= 1e-5


class Sharded(nn.Parameter):
    """What FSDP2 makes of a parameter, as far as the head is concerned."""

    def full_tensor(self) -> torch.Tensor:
        return torch.full((2, 2), 7.0)


class TestShardedHead:
    """A head that FSDP2 shards as a module of its own is not whole inside the model's forward."""

    def test_a_trained_one_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(head, "DTensor", Sharded)
        with pytest.raises(RuntimeError, match="FSDP2 shards the head as a module of its own, and it is trained"):
            head.plain(Sharded(torch.zeros(1, 2)))

    def test_a_frozen_one_is_gathered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(head, "DTensor", Sharded)
        found = head.plain(Sharded(torch.zeros(1, 2), requires_grad=False))
        assert found is not None
        assert found.tolist() == [[7.0, 7.0]] * 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"token_weight": -1.0}, "token_weight=-1.0"),
            ({"token_weight": "auto?"}, "token_weight='auto\\?'"),
            ({"token_share": 0.0}, "token_share=0.0: expected a share above 0 and at most 1"),
            ({"token_share": 1.5}, "token_share=1.5"),
            ({"suppress": ()}, "suppress is empty"),
        ],
    )
    def test_settings(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SASFTCallback(**{"suppress": "zh", "token_weight": 1.0, **changes})

    def test_nothing_to_do(self, world: World) -> None:
        with pytest.raises(ValueError, match="No features: give a feature set; or token_weight, which needs none"):
            SASFTCallback(suppress="zh")

    def test_a_vocabulary_that_is_not_there(self, world: World) -> None:
        trainer = world.run(plain)
        trainer.processing_class = None
        with pytest.raises(ValueError, match="needs the vocabulary, and the trainer has no processing_class"):
            SASFTCallback(suppress="zh", token_weight=1.0).set_trainer(trainer)

    def test_a_vocabulary_without_the_language(self, world: World) -> None:
        with pytest.raises(ValueError, match="No token of this vocabulary holds a letter of ko's scripts"):
            world.run(lambda *args, **kwargs: with_trainer(args[0], None, ["ko"], 0.0, **kwargs), token_weight=1.0)

    def test_tensor_parallelism(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = world.run(plain)
        monkeypatch.setattr(trainer, "get_tp_size", lambda: 2)
        with pytest.raises(ValueError, match="cannot run under tensor parallelism"):
            SASFTCallback(suppress="zh", token_weight=1.0).set_trainer(trainer)

    @both_routes
    def test_a_copied_model_that_runs_the_originals_decoder(self, route: Route, world: World) -> None:
        """TRL's forward without its fused head is a closure over the original, which a copy still calls."""

        def without_features(model: Any, features: FeatureSet, suppress: Any, weight: float, **kwargs: Any) -> Any:
            return route(model, None, suppress, weight, **kwargs)

        trainer = world.run(without_features, token_weight=1.0, label_smoothing_factor=0.1)
        trainer.model = trainer.model_wrapped = copy.deepcopy(trainer.model)
        with pytest.raises(RuntimeError, match=r"hidden states were not captured.*not a copy"):
            trainer.train()
        assert not decoder(trainer.model)._forward_hooks


def test_the_card_names_unlikelihood(world: World) -> None:
    args = SASFTConfig(**world.arguments(), suppress=["zh"], sasft_weight=0.0, token_weight=1.0)
    parts: dict[str, Any] = {"train_dataset": world.dataset, "processing_class": world.tokenizer}
    trainer = SASFTTrainer(world.make_model(), args, **parts)
    trainer.train()
    trainer.save_model(str(world.folder))
    card = (world.folder / "README.md").read_text(encoding="utf-8")
    assert "1908.04319" in card
    assert "unlikelihood" in card
