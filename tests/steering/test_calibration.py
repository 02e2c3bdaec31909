"""Calibration against one response at a time, on a random model that only loops when it is pushed."""

# S sequence

import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import BLOCKS, WIDTH, qwen3, word_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from sae_posttrain import FeatureSet, steer
from sae_posttrain.feature_set import LayerFeatures, Provenance
from sae_posttrain.metrics import LoopSettings, Share, find_loop
from sae_posttrain.metrics.loops import EXACT_LOOPS
from sae_posttrain.sampling import Response, SamplingSettings
from sae_posttrain.steering import Calibration, calibrate
from sae_posttrain.steering.curve import Point
from sae_posttrain.steering.endless import endless_loop

WORDS = [f"w{number}" for number in range(59)]
PROMPTS = [f"w{number} w{number + 1} w{number + 2}" for number in range(6)] + ["w3 w1 w4 w1 w5 w9"]
TOKENS, LEAST = 24, 12


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(WORDS, "<pad>")


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """It has no end of its own, and in greedy decoding none of its answers loops; pushed hard, all do."""
    return qwen3(len(tokenizer), seed=1, initializer_range=0.3).eval()


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    generator = torch.Generator().manual_seed(5)

    def layer(number: int) -> LayerFeatures:
        vectors = {name: torch.randn(2, WIDTH, generator=generator) for name in ("encoder", "direction")}
        numbers = {name: torch.ones(2) for name in ("bias", "score")}
        typical = torch.tensor([0.5, 1.0])
        return LayerFeatures(
            number, (3, 5), ("repetition",) * 2, **vectors, **numbers, typical=typical, baselines={}, activations={}
        )

    provenance = Provenance("owner/tiny", WIDTH, BLOCKS, "owner/sae", {}, "", "repetition contrast")
    return FeatureSet((layer(1), layer(3)), provenance)


GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=TOKENS)


def run(model: Any, tokenizer: Any, features: FeatureSet, **changes: Any) -> Calibration:
    settings = {
        "alphas": [4.0, 16.0],
        "loop_settings": LoopSettings(min_tokens=LEAST, fold_digits=False),
        "sampling": GREEDY,
    }
    settings |= {"max_ratio": 1000.0, "progress": False, "top": [2], **changes}
    return calibrate(model, tokenizer, features, settings.pop("prompts", PROMPTS), **settings)


def answer_by_hand(model: Any, prompt: torch.Tensor, features: FeatureSet, alpha: float) -> list[int]:
    with steer(model, features, alpha=alpha):
        made = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False)
    return made[0, prompt.shape[1] :].tolist()


@torch.no_grad()
def surprisal_by_hand(model: Any, prompt: torch.Tensor, answer: list[int]) -> list[float]:
    log_probabilities = model(torch.cat([prompt, torch.tensor([answer])], dim=1)).logits[0].log_softmax(-1)
    return [-float(log_probabilities[prompt.shape[1] - 1 + place, token]) for place, token in enumerate(answer)]


def plain_by_hand(model: Any, tokenizer: Any, features: FeatureSet) -> list[tuple[torch.Tensor, list[float]]]:
    """Each prompt, and how surprising its unsteered answer is."""
    prompts = [tokenizer(text, return_tensors="pt")["input_ids"] for text in PROMPTS]
    return [
        (prompt, surprisal_by_hand(model, prompt, answer_by_hand(model, prompt, features, 0.0))) for prompt in prompts
    ]


def point_by_hand(model: Any, features: FeatureSet, alpha: float, unsteered: Any) -> tuple[int, float, float]:
    """How many answers loop, and the two perplexities of what stands before they repeat."""
    looped, steered, plain = 0, [], []
    for prompt, surprisals in unsteered:
        answer = answer_by_hand(model, prompt, features, alpha)
        loop = find_loop(answer, LoopSettings(min_tokens=LEAST))
        if loop:
            looped += 1
            before = loop.start + loop.period
            steered += surprisal_by_hand(model, prompt, answer[:before])
            plain += surprisals[:before]
    return looped, math.exp(sum(steered) / len(steered)), math.exp(sum(plain) / len(plain))


def test_the_curve_equals_counting_by_hand(model: Any, tokenizer: Any, features: FeatureSet) -> None:
    calibration = run(model, tokenizer, features, alphas=[4.0, 16.0], batch_size=5)
    assert calibration.plain.loops.hits == 0
    unsteered = plain_by_hand(model, tokenizer, features)
    assert [(point.layers, point.alpha) for point in calibration.points] == [
        (layers, alpha) for layers in ((1,), (3,), (1, 3)) for alpha in (4.0, 16.0)
    ]
    for point in calibration.points:
        chosen = replace(features, layers=tuple(one for one in features.layers if one.layer in point.layers))
        looped, perplexity, plain = point_by_hand(model, chosen, point.alpha, unsteered)
        assert (point.loops.hits, point.loops.total) == (looped, len(PROMPTS))
        assert point.loops.low <= point.rate <= point.loops.high
        assert point.perplexity == pytest.approx(perplexity, rel=1e-3)
        assert point.plain_perplexity == pytest.approx(plain, rel=1e-3)
    assert len({point.loops.hits for point in calibration.points}) > 2


def test_the_smallest_alpha_of_the_most_fluent_layer_is_written(
    model: Any, tokenizer: Any, features: FeatureSet, tmp_path: Any
) -> None:
    calibration = run(model, tokenizer, features, alphas=[4.0, 8.0, 16.0], target_rate=0.7)
    smallest = {}
    for point in reversed(calibration.points):
        if point.rate >= 0.7:
            smallest[point.layers] = point
    assert len(smallest) == 3
    best = min(smallest.values(), key=lambda point: point.perplexity / point.plain_perplexity)
    assert calibration.best == best
    assert best.alpha < 16, "the largest alpha of these layers loops too"
    calibrated = FeatureSet.load(calibration.calibrated().save(tmp_path / "features.safetensors"))
    assert calibrated.alpha == best.alpha
    assert tuple(layer.layer for layer in calibrated.layers) == best.layers
    assert features.alpha is None
    assert [line for line in calibration.table().splitlines() if "<- best" in line] != []


def test_bisection_closes_in_from_above(model: Any, tokenizer: Any, features: FeatureSet) -> None:
    one = replace(features, layers=features.layers[1:])
    settings = {"alphas": [1.0, 16.0], "target_rate": 0.7}
    coarse = run(model, tokenizer, one, **settings)
    fine = run(model, tokenizer, one, **settings, refine=3)
    assert coarse.best is not None
    assert coarse.best.alpha == 16.0
    alphas = [point.alpha for point in fine.points]
    assert alphas == sorted(alphas)
    assert 4.0 in alphas
    assert len(alphas) == 5
    rates = {point.alpha: point.rate for point in fine.points}
    assert fine.best is not None
    assert fine.best.alpha == min(alpha for alpha in alphas if rates[alpha] >= 0.7) < 16.0


def test_nothing_loops(model: Any, tokenizer: Any, features: FeatureSet) -> None:
    calibration = run(model, tokenizer, features, alphas=[0.01, 0.02])
    assert calibration.best is None
    assert not calibration.reached
    assert {point.ratio for point in calibration.points} == {None}
    assert "<- best" not in calibration.table()
    with pytest.raises(
        ValueError, match=r"Nothing loops more than without steering \(0%\).*has not fallen .*larger ones"
    ):
        calibration.calibrated()


def test_where_nothing_stays_fluent_the_most_fluent_point_that_loops_is_taken(
    model: Any, tokenizer: Any, features: FeatureSet
) -> None:
    calibration = run(model, tokenizer, features, max_ratio=0.5)
    assert max(point.rate for point in calibration.points) == 1
    assert not calibration.reached
    sure = [point for point in calibration.points if point.loops.low > 0 and point.ratio is not None]
    assert calibration.best == min(sure, key=lambda point: point.ratio or 0)
    assert calibration.calibrated().alpha == calibration.best.alpha
    assert "The target was 90% at no more than 0.5 times" in calibration.verdict()


def test_numbers_of_features_and_temperatures_are_searched_too(
    model: Any, tokenizer: Any, features: FeatureSet
) -> None:
    calibration = run(model, tokenizer, features, alphas=[16.0], top=None, temperatures=[0.0, 1.5], batch_size=5)
    assert [(point.layers, point.top, point.temperature) for point in calibration.points] == [
        (layers, top, temperature) for temperature in (0.0, 1.5) for layers in ((1,), (3,), (1, 3)) for top in (1, None)
    ]
    assert [plain.temperature for plain in (calibration.plain, *calibration.other_plain)] == [0.0, 1.5]
    assert calibration.plain_of(calibration.points[-1]) is calibration.other_plain[0]
    unsteered = plain_by_hand(model, tokenizer, features)
    one_each = features.select(top=1)
    assert [layer.ids for layer in one_each.layers] == [(3,), (3,)]
    point = next(one for one in calibration.points if one.layers == (1, 3) and one.top == 1)
    assert point.loops.hits == point_by_hand(model, one_each, 16.0, unsteered)[0]


def test_every_response_is_kept_and_lengths_and_ends_are_counted(
    model: Any, tokenizer: Any, features: FeatureSet
) -> None:
    calibration = run(model, tokenizer, features, alphas=[4.0, 16.0])
    assert len(calibration.answers) == len(PROMPTS) * (1 + len(calibration.points))
    for point in (calibration.plain, *calibration.points):
        mine = [one for one in calibration.answers if (one.layers, one.alpha) == (point.layers, point.alpha)]
        assert [one.prompt for one in mine] == list(range(len(PROMPTS)))
        assert sum(one.looped for one in mine) == point.loops.hits
        assert point.tokens == sum(len(one.response.ids) for one in mine) / len(mine)
        assert point.ended == sum(one.response.finish_reason == "stop" for one in mine)
        for one in mine:
            assert one.looped == (
                find_loop(one.response.ids, LoopSettings(min_tokens=LEAST), ended=one.response.ended) is not None
            )


def test_the_cost_is_stated_before_anything_is_sampled(
    model: Any,
    tokenizer: Any,
    features: FeatureSet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_posttrain.bars.EVERY", 0.0)  # or a bar that takes less than a minute prints nothing
    run(model, tokenizer, features, alphas=[4.0, 16.0], progress=True)
    said = capsys.readouterr().err
    first, second = (
        said.index("7 unsteered and 42 steered responses of at most 24 tokens"),
        said.index("will take up to"),
    )
    assert first < said.index("unsteered responses:") < second
    assert "3 combinations of layers, features and temperature, 2 alphas" in said


def test_a_model_that_loops_by_itself_is_told(
    tokenizer: Any, features: FeatureSet, caplog: pytest.LogCaptureFixture
) -> None:
    model = qwen3(len(WORDS) + 1, seed=1, initializer_range=0.02).eval()
    with caplog.at_level(logging.WARNING):
        calibration = run(model, tokenizer, features, alphas=[0.1], target_rate=0.1)
    assert calibration.plain.loops.hits > 1
    assert "without any steering" in caplog.text


def test_the_same_seed_samples_the_same(model: Any, tokenizer: Any, features: FeatureSet) -> None:
    settings = {"alphas": [8.0], "prompts": PROMPTS[:4]}
    one, other = (replace(GREEDY, temperature=0.2, seed=seed) for seed in (1, 2))
    first = run(model, tokenizer, features, **settings, sampling=one)
    assert first.points == run(model, tokenizer, features, **settings, sampling=one).points
    assert first.points != run(model, tokenizer, features, **settings, sampling=other).points


def test_the_largest_alpha_of_a_layer_is_not_taken_for_its_smallest(features: FeatureSet) -> None:
    """By hand: layer 1 reaches the share fluently at 4 and, less so, at 8; layer 3 at 2, less fluently."""

    def point(layers: tuple[int, ...], alpha: float, looped: int, perplexity: float) -> Point:
        return Point(layers, alpha, Share(looped, 10, 0.0, 1.0), perplexity, 10.0)

    points = (
        point((1,), 2.0, 8, 10.0),
        point((1,), 4.0, 9, 12.0),
        point((1,), 8.0, 10, 11.0),
        point((3,), 2.0, 10, 15.0),
        point((1, 3), 1.0, 10, 21.0),
    )
    calibration = Calibration(features, point((), 0.0, 0, 10.0), points, 0.9, 2.0)
    assert calibration.best == points[1]
    assert [layer.layer for layer in calibration.calibrated().layers] == [1]
    assert replace(calibration, target_rate=1.0).best == points[2]
    assert replace(calibration, max_ratio=1.05).best == points[0], "it is fluent, and 80% is below the target"
    assert not replace(calibration, max_ratio=1.05).reached
    assert calibration.reached
    assert calibration.to_dict()["best"]["ratio"] == 1.2


def made(layers: tuple[int, ...], alpha: float, looped: int, perplexity: float | None, **more: Any) -> Point:
    low = 0.0 if looped < 3 else looped / 10 - 0.2
    return Point(layers, alpha, Share(looped, 10, low, 1.0), perplexity, perplexity and 10.0, **more)


def test_below_the_target_the_fluent_point_that_loops_most_is_taken(features: FeatureSet) -> None:
    points = (made((1,), 2.0, 3, 15.0), made((1,), 4.0, 6, 18.0), made((1,), 8.0, 8, 30.0), made((3,), 2.0, 6, 19.0))
    calibration = Calibration(features, made((), 0.0, 1, 10.0), points, 0.9, 2.0)
    assert calibration.best == points[1]
    assert calibration.verdict().startswith("Best is alpha 4 of layer 1 at temperature 1: 60% of the responses loop")
    assert "(10% without steering)" in calibration.verdict()
    assert "At alpha 8 the text is no longer fluent" in calibration.verdict()
    assert (
        "At 3.00 times, alpha 8 of layer 1 at temperature 1 makes 80% loop; a higher max_ratio" in calibration.verdict()
    )
    assert "chance" not in calibration.verdict()
    weak = replace(calibration, points=(made((1,), 2.0, 2, 12.0), *points[2:3]))
    assert weak.best == weak.points[0]
    assert "may be chance; give more prompts" in weak.verdict()
    loops_itself = replace(calibration, plain=made((), 0.0, 9, 10.0))
    assert loops_itself.best is None


@pytest.mark.parametrize(("last", "expected"), [(4, "Above alpha 4 fewer responses loop"), (7, "Try larger ones")])
def test_larger_alphas_are_advised_only_before_the_peak(features: FeatureSet, last: int, expected: str) -> None:
    points = (made((1,), 2.0, 3, 12.0), made((1,), 4.0, 5, 13.0), made((1,), 8.0, last, 14.0))
    verdict = Calibration(features, made((), 0.0, 0, 10.0), points, 0.9, 2.0).verdict()
    assert expected in verdict
    assert ("Try larger" in verdict) == (last == 7)


def test_a_text_that_counts_on_loops_only_where_digits_are_folded() -> None:
    words = [*map(str, range(1, 30)), *(f"w{number}" for number in range(10))]
    tokenizer = word_tokenizer(words, "<pad>")
    ids = [
        token
        for number in range(1, 30)
        for token in tokenizer.convert_tokens_to_ids(["w1", "w2", "w3", "w4", "w5", str(number), "w6"])
    ]
    answer = Response(tokenizer.decode(ids), "length", len(ids), tuple(ids))
    assert endless_loop(answer, tokenizer, EXACT_LOOPS) is None
    loop = endless_loop(answer, tokenizer, LoopSettings())
    assert loop is not None
    assert (loop.start, loop.end, loop.period) == (0, len(ids), 7)
    assert endless_loop(replace(answer, finish_reason="stop"), tokenizer, LoopSettings()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"alphas": []}, "expected finite numbers above 0"),
        ({"alphas": [1.0, -2.0]}, "expected finite numbers above 0"),
        ({"alphas": [math.inf]}, "expected finite numbers above 0"),
        ({"target_rate": 0.0}, "target_rate=0.0"),
        ({"max_ratio": 0.0}, "max_ratio=0.0"),
        ({"top": [0]}, r"top=\[0\]"),
        ({"refine": -1}, "refine=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"sampling": replace(GREEDY, max_new_tokens=5)}, "leaves no room for a loop"),
        ({"temperatures": [-1.0]}, "temperature must be"),
    ],
)
def test_bad_requests(changes: dict[str, Any], message: str, model: Any, tokenizer: Any, features: FeatureSet) -> None:
    with pytest.raises(ValueError, match=message):
        run(model, tokenizer, features, **changes)


def test_features_of_another_model(tokenizer: Any, features: FeatureSet) -> None:
    other = qwen3(len(WORDS) + 1, num_hidden_layers=5)
    with pytest.raises(ValueError, match="Discover features for this model"):
        run(other, tokenizer, features)
