"""Spans of unexpected scripts, the rate over responses, and its interval."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from typing import Any

import numpy as np
import pytest

from sae_posttrain.metrics import Span, code_switching_rate, unexpected_spans
from sae_posttrain.metrics import interval as interval_module
from sae_posttrain.metrics.interval import share_interval


def words(response: Any, language: Any, **options: Any) -> Any:
    return [span.text for span in unexpected_spans(response, language, **options)]


def test_spans_hold_their_place_script_and_text() -> None:
    response = "The answer is 答案 or ответ."
    assert unexpected_spans(response, "en") == [Span(14, 16, "Hani", "答案"), Span(20, 25, "Cyrl", "ответ")]
    assert all(response[span.start : span.end] == span.text for span in unexpected_spans(response, "en"))


@pytest.mark.parametrize(
    ("language", "response"),
    [
        ("en", "Plain text, 12 %, naïve café, 😀 → “quoted”, 5 µm, ½, №, ™, ①"),
        ("ja", "東京でコーヒーを飲む。"),
        ("zh", "使用 Transformer 模型（约 10 亿参数）。"),
        ("ru", "Модель GPT обучена."),
        ("ja", "二〇二五年、人々はﾃﾚﾋﾞを見る。"),
        ("ko", "모델은 GPU에서 학습한다."),
        ("ko", "전(前) 점원, 한국(韓國)과 漢字(한자)"),
        ("ko", "《삼국사기》(三國史記)는 역사서이다."),
        ("ko", "주<sup>Major, 主</sup>, 부(Minor, 部) 버전, 수Patch, 修 버전"),
        ("vi", "Tiếng Việt, e\N{COMBINING ACUTE ACCENT}"),
        ("ar", "مرحبا، ١٢٣ GPU"),
        ("hi", "नमस्ते १२३।"),
        ("sr", "Здраво i zdravo"),
        ("en", "α = 0.05, Σ x, 10 Ω"),
        ("en", ""),
    ],
)
def test_ordinary_text_has_no_unexpected_words(language: Any, response: Any) -> None:
    assert unexpected_spans(response, language) == []


@pytest.mark.parametrize(
    ("language", "response", "found"),
    [
        ("en", "he said и\N{COMBINING BREVE}ога", ["и\N{COMBINING BREVE}ога"]),
        ("en", "列夫·托尔斯泰 wrote", ["列夫·托尔斯泰"]),
        ("en", "коко-шанель's", ["коко-шанель"]),
        ("en", "the コーヒー", ["コーヒー"]),
        ("en", "the ภาษาไทย.", ["ภาษาไทย"]),
        ("en", "日本の", ["日本", "の"]),
        ("en", "λόγος", ["λόγος"]),
        ("en", "a𠀀b", ["𠀀"]),
        ("ko", "이것은 重要합니다", ["重要"]),
        ("ko", "말(大韓民國)", ["大韓民國"]),
        ("zh", "한국(韓國)", ["한국"]),
        ("zh", "中文ひらがな", ["ひらがな"]),
        ("sr-Latn", "zdravo Здраво", ["Здраво"]),
    ],
)
def test_words_are_whole(language: Any, response: Any, found: Any) -> None:
    assert words(response, language) == found


def test_any_character_of_the_script_counts_as_published() -> None:
    """The oracle is Python's own character names, one character at a time."""
    rng = random.Random(0)
    alphabet = "abcé яжё 中文字 한국 ,.!?()1２　。、·— \n"
    for _ in range(300):
        response = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        for language, own in (("en", "LATIN"), ("ru", "CYRILLIC"), ("zh", "CJK"), ("ko", "HANGUL")):
            for script, name in (("Cyrl", "CYRILLIC"), ("Hani", "CJK UNIFIED"), ("Hang", "HANGUL")):
                holds = any(unicodedata.name(char, "").startswith(name) for char in response)
                if not name.startswith(own):
                    spans = unexpected_spans(response, language, ignore_code=False, ignore_urls=False)
                    assert any(span.script == script for span in spans) == holds, (response, language)


def test_a_cut_off_surrogate_is_no_error() -> None:
    assert words("a \ud83d 中文", "en") == ["中文"]


def test_latin_in_other_scripts_counts_on_request() -> None:
    assert words("使用 Transformer", "zh") == []
    assert words("使用 Transformer", "zh", count_latin=True) == ["Transformer"]
    assert words("Использует GPU", "ru", count_latin=True) == ["GPU"]


def test_words_quoted_from_the_prompt_are_left_out() -> None:
    assert words("Привет is hello", "en", prompt="What is “привет”?") == []
    response = "“你好” means hello, 再见 means goodbye"
    assert words(response, "en", prompt="What does 你好 mean?") == ["再见"]
    assert words(response, "en", prompt="") == ["你好", "再见"]


@pytest.mark.parametrize(
    "response",
    [
        "See\n```python\nprint('你好')\n```\nend",
        "See\n~~~\nprint('你好')\n~~~\nend",
        "Cut off\n```python\nprint('你好')",
        "Call `打印()` or ``a`打印``",
        "````md\n```python\n你好\n```\n````",
    ],
)
def test_code_is_left_out_unless_asked(response: Any) -> None:
    assert words(response, "en") == []
    assert words(response, "en", ignore_code=False) != []


def test_text_around_code_and_urls_keeps_its_place() -> None:
    response = "`打印` 结果 https://ru.wikipedia.org/wiki/Россия 是\n```sh\n代码\n```\n好"
    spans = unexpected_spans(response, "en")
    assert [span.text for span in spans] == ["结果", "是", "好"]
    assert all(response[span.start : span.end] == span.text for span in spans)
    assert "Россия" in words(response, "en", ignore_urls=False)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("visit https://example.com谢谢", ["谢谢"]),
        ("visit https://example.com/a。谢谢", ["谢谢"]),
        ("visit www.example.com/路径?键=值 ok", []),
        ("it costs 5` and 你好 then", ["你好"]),
    ],
)
def test_what_follows_a_url_or_a_lone_backtick_is_still_read(response: Any, found: Any) -> None:
    assert words(response, "en") == found


@pytest.mark.timeout(60)  # a search that starts anew at each character takes hours
@pytest.mark.parametrize(
    ("language", "response", "found"),
    [
        ("ko", "한 " + "一" * 1_000_000, 1),
        ("en", "и ://" + "a." * 1_000_000, 1),
        ("en", "и ://" + "a-" * 1_000_000, 1),
    ],
    ids=["Hanja", "dots", "hyphens"],
)
def test_a_long_run_is_read_once(language: Any, response: Any, found: Any) -> None:
    assert len(unexpected_spans(response, language)) == found


def test_a_scheme_may_stand_behind_dots_and_be_long() -> None:
    assert words("и a.b.http://x.org/да", "en") == ["и"]
    assert words("chrome-extension://x/да, view-source+x.y://x/да", "en") == []


def test_allowed_scripts_and_terms() -> None:
    response = "東京 and Токио and 京都"
    assert words(response, "en", allowed=["Hani"]) == ["Токио"]
    assert words(response, "en", allowed=["東京", "токио"]) == ["京都"]
    assert words(response, "en", allowed="Cyrl") == ["東京", "京都"]
    assert words(response, "en", allowed=["東", "東京", "токио"]) == ["京都"]


def test_rate_counts_responses_by_language_and_script() -> None:
    report = code_switching_rate(
        ["fine", "so 中文 и", "also 中文", "всё хорошо", "и 中文", "хорошо"], ["en"] * 3 + ["ru-RU"] * 3
    )
    assert (report.overall.hits, report.overall.total) == (3, 6)
    assert report.overall.rate == 0.5
    assert {key: (rate.hits, rate.total) for key, rate in report.languages.items()} == {"en": (2, 3), "ru": (1, 3)}
    assert {key: (rate.hits, rate.total) for key, rate in report.pairs.items()} == {
        ("en", "Hani"): (2, 3),
        ("en", "Cyrl"): (1, 3),
        ("ru", "Hani"): (1, 3),
    }


def test_only_switches_into_the_target_count_and_its_own_speakers_are_left_out() -> None:
    responses = ["so 中文", "so и", "漢字です", "中文"]
    report = code_switching_rate(responses, ["en", "en", "ja", "zh"], to="zh")
    assert (report.overall.hits, report.overall.total, report.skipped) == (1, 3, 1)
    assert set(report.pairs) == {("en", "Hani"), ("ja", "zh")}
    assert "1 responses left out" in report.table()

    both = code_switching_rate([*responses, "日本 и"], ["en", "en", "ja", "zh", "ja"], to=["zh", "Cyrl"])
    assert (both.overall.hits, both.overall.total, both.skipped) == (3, 5, 0)
    assert both.pairs["ja", "Cyrl"].hits == 1
    assert ("ja", "Hani") not in both.pairs


def test_the_authors_definition_stands_beside_ours() -> None:
    responses = ["`打印` prints", "you said 你好", "α and 中", "fine", "tomorrow и"]
    prompts = ["", "What is 你好?", "", "", ""]
    report = code_switching_rate(responses, "en", prompts=prompts, to="zh", compare_published=True)
    assert (report.overall.hits, report.published.hits, report.published.total) == (1, 3, 5)
    assert report.to_dict()["published"]["switched"] == 3
    assert report.table().splitlines()[2].split()[:6] == ["all", "any,", "as", "published", "3", "5"]
    assert code_switching_rate(responses, "en", compare_published=True).published.hits == 4
    assert code_switching_rate(responses, "en").published is None


def test_a_latin_target_counts_latin() -> None:
    assert code_switching_rate(["用 GPU", "好"], "zh", to="en").overall.hits == 1
    assert code_switching_rate(["用 GPU", "好"], "zh", count_latin=True).overall.hits == 1
    assert code_switching_rate(["用 GPU", "好"], "zh").overall.hits == 0


def test_report_is_json_and_a_table() -> None:
    report = code_switching_rate(["ok", "中文"], "en", to=["zh", "ko"])
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["overall"]["rate"] == 0.5
    assert [(pair["language"], pair["script"], pair["switched"]) for pair in plain["pairs"]] == [
        ("en", "Hang", 0),
        ("en", "Hani", 1),
    ]
    lines = report.table().splitlines()
    assert len(lines) == 1 + 1 + 1 + 2
    assert lines[1].split()[:5] == ["all", "any", "1", "2", "50.000"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["en"]}, "2 responses but 1 languages"),
        ({"languages": "en", "prompts": ["a"]}, "2 responses but 1 prompts"),
        ({"languages": "en", "clusters": [1, 2, 3]}, "2 responses but 3 clusters"),
        ({"languages": "xx"}, "unknown language 'xx'"),
        ({"languages": "en", "to": "klingon"}, "unknown language 'klingon'"),
        ({"languages": "en", "to": []}, "`to` is empty"),
        ({"languages": "zh", "to": "zh"}, "nothing to measure among 2 responses: .* itself written in Hani"),
        ({"languages": "en", "confidence": 95}, "confidence must lie between 0 and 1"),
        ({"languages": "en", "resamples": 0}, "resamples must be at least 1"),
    ],
)
def test_bad_input_is_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        code_switching_rate(["a", "b"], **options)
    with pytest.raises(ValueError, match="nothing to measure"):
        code_switching_rate([], "en")


def naive_interval(hits: Any, sizes: Any, draws: Any = 4000) -> Any:
    """Cluster bootstrap as the textbook has it: draw clusters one by one."""
    hits, sizes = np.asarray(hits), np.asarray(sizes)
    drawn = np.random.default_rng(1).integers(0, len(hits), size=(draws, len(hits)))
    return np.quantile(hits[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_interval_agrees_with_drawing_clusters_one_by_one(spread: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, size=300)
    hits = rng.binomial(sizes, rng.beta(spread, 1, size=300))
    assert np.allclose(share_interval(hits, sizes), naive_interval(hits, sizes), atol=0.004)


def test_samples_of_one_prompt_are_not_independent() -> None:
    """Prompts that always or never switch: eight samples of each know no more than one."""
    responses = (["中文"] * 8 + ["fine"] * 8 * 9) * 10
    clusters = [index // 8 for index in range(len(responses))]
    apart = code_switching_rate(responses, "en").overall
    together = code_switching_rate(responses, "en", clusters=clusters).overall
    once = code_switching_rate(responses[::8], "en").overall
    assert apart.rate == together.rate == once.rate == 0.1
    assert (together.low, together.high) == (once.low, once.high)
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize("count", [1, 20, 1350])
def test_none_or_all_switched_gives_the_exact_bound(count: Any) -> None:
    """At the bound, seeing none at all has a chance of exactly 2.5%."""
    low, high = share_interval([0] * count, [1] * count)
    assert low == 0
    assert (1 - high) ** count == pytest.approx(0.025)
    assert share_interval([1] * count, [1] * count) == pytest.approx((1 - high, 1))
    assert share_interval([0] * count, [8] * count) == share_interval([0] * 8 * count, [1] * 8 * count)


@pytest.mark.parametrize("size", [1, 8])
def test_more_hits_never_lower_a_bound(size: Any) -> None:
    """At rates as low as the papers', the plain bootstrap's upper bound falls from no hit to one."""
    intervals = [share_interval([1] * hits + [0] * (170 - hits), [size] * 170) for hits in range(12)]
    for fewer, more in itertools.pairwise(intervals):
        assert fewer[0] <= more[0]
        assert fewer[1] < more[1]


def test_one_mixed_cluster_tells_nothing_about_others() -> None:
    assert share_interval([3], [8]) == (0.0, 1.0)


def test_interval_is_deterministic_and_widens_with_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, sizes = [0, 1, 3, 0, 2, 0, 1, 0] * 20, [8] * 160
    assert share_interval(hits, sizes) == share_interval(hits, sizes)
    assert share_interval(hits, sizes, seed=1) != share_interval(hits, sizes)
    low, high = share_interval(hits, sizes, confidence=0.99)
    assert low < share_interval(hits, sizes)[0] < share_interval(hits, sizes)[1] < high
    monkeypatch.setattr(interval_module, "_MAX_CELLS", 64)
    assert np.allclose(share_interval(hits, sizes), naive_interval(hits, sizes), atol=0.01)


@pytest.mark.parametrize(("hits", "sizes"), [([], []), ([1], [1, 2]), ([0], [0]), ([[1]], [[1]])])
def test_interval_refuses_what_is_no_clusters(hits: Any, sizes: Any) -> None:
    with pytest.raises(ValueError, match="at least one cluster"):
        share_interval(hits, sizes)
