"""Line and word pass rates against the published definition, and the identifiers behind them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from sae_posttrain.metrics import (
    Span,
    compare_rates,
    confused_spans,
    langid_identifier,
    langid_scorer,
    language_confusion,
)

ENGLISH = "The cat sees a small house today"
RUSSIAN = "Кошка видит очень маленький дом сегодня"
CHINESE = "今天那只猫看见了一个小房子"


def identify(line: Any) -> Any:
    """By the first letter; what starts otherwise cannot be told."""
    return {"T": "en", "К": "ru", "今": "zh"}.get(line[0])


def confusion(responses: Any, languages: Any, **options: Any) -> Any:
    return language_confusion(responses, languages, identify=identify, **options)


def passed(report: Any) -> Any:
    """By language, how many of how many responses passed by line, and by word."""
    shares = {"all": (report.lines, report.words), **report.by_language}
    return {
        code: tuple((0, 0) if share is None else (share.hits, share.total) for share in pair)
        for code, pair in shares.items()
    }


@pytest.mark.parametrize(
    ("language", "response", "line", "word"),
    [
        ("en", ENGLISH, True, None),
        ("en", f"{ENGLISH}\n{RUSSIAN}", False, None),
        ("en", f"{ENGLISH}\nКошка видит дом", True, None),  # too short to be looked at
        ("en", "Unknown words are never in the right language", False, None),
        ("ru", RUSSIAN, True, True),
        ("ru", f"{RUSSIAN} today", True, False),
        ("ru", f"{RUSSIAN} API GPUs fast", True, False),
        ("ru", f"{RUSSIAN} API Python the", True, True),  # capitals, and three letters
        ("ru", f"{RUSSIAN}\nok today", True, True),  # too short a line
        ("ru", f"{RUSSIAN} `print` https://example.com/today", True, True),
        ("ru", ENGLISH, False, None),
        ("zh", CHINESE, True, True),
        ("zh", f"{CHINESE} today", True, False),
    ],
)
def test_lines_and_words_pass_or_fail(language: Any, response: Any, line: Any, word: Any) -> None:
    report = confusion([response], language)
    expected = (int(bool(word)), int(word is not None))
    assert passed(report)["all"] == ((int(line), 1), expected)
    assert report.rate == float(not line or word is False)


def test_what_fails_is_shown_in_its_place() -> None:
    response = f"  {ENGLISH}\n{RUSSIAN} today"
    assert confused_spans(response, "ru", identify=identify) == [Span(2, 34, "Latn", ENGLISH, "en")]
    (word,) = confused_spans(f"{RUSSIAN} today", "ru", identify=identify)
    assert (word.text, word.language) == ("today", "en")
    (unknown,) = confused_spans("Neither one nor the other", "en", identify=identify)
    assert (unknown.text, unknown.language) == ("Neither one nor the other", None)
    assert confused_spans(RUSSIAN, "ru", identify=identify) == []


def test_rates_are_of_the_responses_that_could_be_judged() -> None:
    responses = [ENGLISH, RUSSIAN, f"{RUSSIAN} today", ENGLISH, "Коротко", CHINESE]
    report = confusion(responses, ["en", "ru", "ru", "ru", "ru", "zh"])
    assert passed(report) == {
        "all": ((4, 5), (2, 3)),
        "en": ((1, 1), (0, 0)),
        "ru": ((2, 3), (1, 2)),
        "zh": ((1, 1), (1, 1)),
    }
    assert (report.skipped, report.rate) == (1, 2 / 5)
    plain = json.loads(json.dumps(report.to_dict()))
    assert (plain["lpr"]["rate"], plain["wpr"]["rate"], plain["languages"]["en"]["wpr"]["rate"]) == (0.8, 2 / 3, None)
    lines = [line.split() for line in report.table().splitlines()]
    assert lines[1][:3] == ["average", "LPR", "88.889"]
    assert lines[3][:5] == ["all", "LPR", "4", "5", "80.000"]
    assert ["en", "WPR"] not in [line[:2] for line in lines]


def test_the_average_is_by_source_and_language() -> None:
    """As published: the mean over languages of the mean over sources, whatever their numbers."""
    responses = [RUSSIAN, RUSSIAN, ENGLISH, f"{RUSSIAN} today", ENGLISH, ENGLISH]
    languages = ["ru", "ru", "ru", "ru", "en", "en"]
    sources = ["a", "a", "a", "b", "a", "b"]
    report = confusion(responses, languages, sources=sources)
    assert report.lpr.rate == ((2 / 3 + 1) / 2 + (1 + 1) / 2) / 2
    assert report.wpr is not None
    assert report.wpr.rate == (1 + 0) / 2
    assert (report.lpr.cells, report.wpr.cells) == (4, 2)
    assert report.lpr.low < report.lpr.rate < report.lpr.high
    assert report.lines.rate == 5 / 6
    assert confusion(responses, languages).lpr.rate == (3 / 4 + 1) / 2
    assert confusion([ENGLISH], "en").wpr is None
    plain = report.to_dict()["average"]
    assert (plain["lpr"]["rate"], plain["wpr"]["rate"]) == (report.lpr.rate, report.wpr.rate)


def test_the_interval_of_an_average_widens_with_its_clusters() -> None:
    responses, languages = [RUSSIAN, ENGLISH] * 10, ["ru"] * 20
    apart = confusion(responses, languages).lpr
    together = confusion(responses, languages, clusters=[place % 2 for place in range(20)]).lpr
    assert together.low < apart.low < 0.5 < apart.high < together.high
    agreed = confusion([RUSSIAN] * 4, "ru")
    assert agreed.lpr.rate == agreed.lpr.high == 1
    assert agreed.lpr.low == agreed.lines.low


@pytest.mark.parametrize(
    ("language", "response", "line", "word"),
    [
        ("ru", f"{RUSSIAN}\nQ: What is it all about?", True, True),  # the next question of a base model
        ("ru", "Кошка, видит: дом! . - 12", None, None),  # four words
        ("ru", "Кошка видит дом 12 34", True, True),  # numbers are words there
        ("ru", f"{RUSSIAN} see/today", True, True),  # one word there
        ("ru", f"{RUSSIAN} (today)", True, False),
        ("zh", f"{CHINESE}today的", True, False),
        ("ru", f"{RUSSIAN} `today`", True, False),
    ],
)
def test_responses_are_read_as_the_published_code_does(language: Any, response: Any, line: Any, word: Any) -> None:
    if line is None:
        with pytest.raises(ValueError, match="nothing to measure"):
            confusion([response], language, published=True)
        return
    report = confusion([response], language, published=True, english={"today", "what", "about"})
    assert passed(report)["all"] == ((int(line), 1), (int(word), int(line)))
    for span in confused_spans(response, language, identify=identify, published=True):
        assert response[span.start : span.end] == span.text


def test_a_line_mostly_in_latin_letters_is_in_a_language_of_latin_letters() -> None:
    pytest.importorskip("py3langid")
    identify = langid_identifier()
    assert identify("中国是第一个采用它的国家。") == "zh"
    assert identify("我们 we consider the present understanding and progress of physics") == "en"
    assert identify("我们今天在这里讨论 physics 的发展") == "zh"
    assert langid_identifier(["ru", "zh"])("We consider") in ("ru", "zh")  # there is no such language to choose


def test_a_list_of_english_words_decides_as_published() -> None:
    response = f"{RUSSIAN} iphone"
    assert confusion([response], "ru").words.hits == 0
    assert confusion([response], "ru", english={"today"}).words.hits == 1


def test_code_counts_only_as_published() -> None:
    fenced = f"{RUSSIAN}\n```sh\n{ENGLISH}\n```"
    assert confusion([fenced], "ru").lines.hits == 1
    assert confusion([fenced], "ru", ignore_code=False).lines.hits == 0


def test_runs_on_the_same_prompts_compare() -> None:
    better, worse = confusion([RUSSIAN] * 6, "ru"), confusion([ENGLISH] * 6, "ru")
    assert compare_rates(better, worse).difference == -1


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        ([], {}, "nothing to measure among 0 responses: no line has at least 5 words"),
        (["too short"], {}, "nothing to measure among 1 responses"),
        ([ENGLISH] * 2, {"clusters": [1]}, "2 responses but 1 clusters"),
    ],
)
def test_bad_input_is_named(responses: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(responses, "en", **options)
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        confusion([ENGLISH], "xx")


def test_py3langid_tells_expected_languages_apart_and_says_what_it_does_not_know() -> None:
    pytest.importorskip("py3langid")
    identify = langid_identifier(["en", "fr", "pt"])
    assert identify(ENGLISH) == "en"
    assert identify("Nous avons vu une petite maison dans la ville") == "fr"
    assert identify("") is None
    narrow = langid_identifier(["fr", "de"])
    assert identify(ENGLISH) == "en"  # restricting one leaves the other as it was
    assert narrow(ENGLISH) in ("fr", "de")
    assert set(langid_scorer(["en", "fr"])("house")) == {"en", "fr"}
    with pytest.raises(ValueError, match="name at least two"):
        langid_identifier(["en", "english"])
    with pytest.raises(ValueError, match="py3langid does not know tpi"):
        langid_identifier(["en", "tpi"])
    report = language_confusion([ENGLISH, RUSSIAN], ["en", "ru"])
    assert passed(report)["all"] == ((2, 2), (1, 1))


def test_a_missing_py3langid_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_posttrain.metrics import identification

    identification._whole.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ImportError, match=r"sae-posttrain\[langid\]"):
        langid_identifier()
