"""What counts as a switch, shared by rate, reward and command: glosses, languages of a row, targets, shares."""

import json
from multiprocessing.reduction import ForkingPickler

import pytest

from sae_posttrain.metrics import PhraseFinder, SwitchCriteria, allowed_in, code_switching_rate, unexpected_spans
from sae_posttrain.metrics.words import count_words


@pytest.mark.parametrize(
    ("language", "response", "left"),
    [
        ("en", "The director 宮崎 駿 (Miyazaki Hayao) was born in Tokyo.", []),
        ("en", "Miyazaki (宮崎 駿) was born in Tokyo.", []),
        ("en", "[Xuan Huang (黄玄)](https://x.org) and *Xuan* (**黄玄**)", []),
        ("en", "Beijing (Chinese: 北京; pinyin: Běijīng) is large.", []),
        ("en", "“Война и мир” (War and Peace) is long.", []),
        ("ru", "Фильм 千と千尋 (Унесённые призраками) вышел.", []),
        ("en", "The 结果 is good, and 宮崎 (Miyazaki) too.", ["结果"]),
        ("en", "Then 他说我们需要时间来解决这个问题所以我们不能马上开始因为还有很多事情要做 (he said).", None),
        ("en", "(然后我们) left", ["然后我们"]),
        ("en", "the 结果 (在这里) is", ["结果", "在这里"]),
    ],
)
def test_glosses_are_left_out_on_request(language: str, response: str, left: list[str] | None) -> None:
    assert unexpected_spans(response, language) != []
    found = [span.text for span in unexpected_spans(response, language, ignore_glosses=True)]
    assert found == left if left is not None else found != []


def test_a_row_may_allow_languages() -> None:
    responses = ["In Chinese it is 你好 (nǐ hǎo).", "It is 你好 и ответ.", "It is 你好."]
    allowed = [["zh"], "zh, ru", None]
    report = code_switching_rate(responses, "en", allowed_languages=allowed)
    assert [switched for _, switched in report.outcomes] == [False, False, True]
    assert unexpected_spans("мир и 你好 and どうも", "en", allowed_languages=["ja"])[0].text == "мир"
    with pytest.raises(ValueError, match="3 responses but 1 allowed_languages"):
        code_switching_rate(responses, "en", allowed_languages=[None])


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"allowed": "Traditional Chinese, Korean"}, ("Traditional Chinese", "Korean")),
        ({"allowed": "Portuguese (Brazil)"}, ("Portuguese (Brazil)",)),
        ({"allowed": "['zh', 'ja']"}, ("zh", "ja")),  # a list in a table
        ({"allowed": "zh;ja"}, ("zh", "ja")),
        ({"allowed": float("nan")}, ()),
        ({"allowed": ["zh", "ja"]}, ("zh", "ja")),
        ({"allowed": "zh, ja"}, ("zh", "ja")),
        ({"allowed": "Chinese"}, ("Chinese",)),
        ({"languages": "Hani"}, ("Hani",)),
        ({"allowed": None, "languages": ["ru"]}, ("ru",)),
        ({"allowed": ""}, ()),
        ({}, ()),
    ],
)
def test_columns_that_name_languages(row: dict[str, object], found: tuple[str, ...]) -> None:
    assert allowed_in(row) == found


@pytest.mark.parametrize("value", ["klingon", ["zh", 3], 3])
def test_a_column_that_names_no_language_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match="column 'allowed'"):
        allowed_in({"allowed": value})


def scorer(word: str) -> dict[str, float]:
    known = {"en": "the cat sees a small house", "fr": "le chat voit une petite maison"}
    return {code: 6.0 * (word.strip() in text.split()) for code, text in known.items()}


def test_phrases_in_an_allowed_language_are_none() -> None:
    criteria = SwitchCriteria(phrases=PhraseFinder(["fr"], scorer=scorer))
    response = "the cat sees le chat voit une petite maison"
    assert [span.language for span in criteria.find(response, "en")] == ["fr"]
    assert criteria.find(response, "en", allowed_languages=["fr"]) == []
    again = ForkingPickler.loads(ForkingPickler.dumps(criteria))
    assert again.find(response, "en") == criteria.find(response, "en")


def test_words_are_counted_with_and_without_spaces() -> None:
    assert count_words("Two words, 42 and 更多的话。") == 3 + 2
    assert count_words("") == 0


def test_the_share_of_words_stands_beside_yes_and_no() -> None:
    responses = ["one two three 答案", "one two", "`x` 答案答案 https://x.org"]
    report = code_switching_rate(responses, "en")
    assert report.overall.rate == pytest.approx(2 / 3)
    assert report.words == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert report.pairs["en", "Hani"].graded == report.words
    assert json.loads(json.dumps(report.to_dict()))["overall"]["words"] == report.words
    assert report.table().splitlines()[0].endswith("words %")
    assert report.table().splitlines()[1].split()[-1] == "41.667"
    into_russian = code_switching_rate(["one two 答案 ответ"], "en", to="ru")
    assert into_russian.words == 0.25


def test_words_of_a_phrase_that_their_script_tells_too_are_counted_once() -> None:
    def both(word: str) -> dict[str, float]:
        return {"zh": 0.0, **scorer(word)}

    criteria = SwitchCriteria(phrases=PhraseFinder(["fr"], scorer=both), count_latin=True)
    response = "猫猫猫猫 le chat voit une"
    spans = criteria.find(response, "zh")
    assert {span.language for span in spans} == {None, "fr"}
    assert criteria.word_share(response, spans) == pytest.approx(4 / 6)


def test_phrases_that_are_no_finder_are_refused() -> None:
    with pytest.raises(ValueError, match="phrases must be a PhraseFinder or None, got True"):
        SwitchCriteria(phrases=True)
    with pytest.raises(ValueError, match="expected a language such as 'zh', got None"):
        code_switching_rate(["a"], [None])
