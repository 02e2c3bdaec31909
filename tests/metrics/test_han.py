"""Chinese and Japanese by the forms of their characters."""

import pytest

from sae_posttrain.metrics import code_switching_rate, unexpected_spans
from sae_posttrain.metrics.han import chinese_forms, japanese_forms


def words(response: str, language: str, **options: object) -> list[tuple[str, str | None]]:
    return [(span.text, span.language) for span in unexpected_spans(response, language, **options)]


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("審査官は检证の結果を見て价值を認めた。", ["检证", "价值"]),
        ("これは这个问题です", ["这个问题"]),
        ("彼は你好と言った", ["你好"]),
        ("我們說了", ["我們說了"]),
        ("它將會", ["它將會"]),
        ("結果は、因为超时。", ["因为超时"]),
    ],
)
def test_chinese_inside_japanese(response: str, found: list[str]) -> None:
    assert words(response, "ja") == [(text, "zh") for text in found]
    assert words(response, "ja", allowed_languages=["zh"]) == []
    assert words(response, "ja", allowed=["Hani"]) == []


@pytest.mark.parametrize(
    "response",
    [
        "二〇二五年、人々はﾃﾚﾋﾞを見る。機械学習は一つの分野だ。",
        "龍谷大学と慶應義塾、澤田、廣瀬、齋藤・齊藤、濱田、櫻井、德川、冨樫、黑柳、渡邉、髙橋、﨑山",
        "澁澤龍彥、内田百閒",
        "剝製と塡補、鷗外、深圳、國學院、𠮷野家、餃子、噓、蟬、囊胞、麵、醬油、掻痒と搔痒、這い回る",
    ],
)
def test_japanese_is_japanese(response: str) -> None:
    assert words(response, "ja") == []


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("机器学习の一个分支。", [("の", None)]),
        ("点击検索按钮", [("点击検索按钮", "ja")]),
        ("他在働く", [("他在働", "ja"), ("く", None)]),
        ("「ありがとう」的意思是谢谢", [("ありがとう", None)]),
        ("お前是谁", [("お", None)]),
    ],
)
def test_japanese_inside_chinese(response: str, found: list[tuple[str, str | None]]) -> None:
    assert words(response, "zh") == found
    assert words(response, "zh", allowed_languages="ja") == []


@pytest.mark.parametrize(
    "response",
    [
        "我喜欢喝「優の良品」的茶，也看《千と千尋の神隠し》。",
        "臺灣的電腦軟體說明，為什麼裡面，啓動，説話，羣衆，峯會，衞生，綫，着，牀",
        "去栃木县见辻先生，看畑里的花。",
    ],
)
def test_chinese_is_chinese(response: str) -> None:
    assert words(response, "zh") == []


def test_to_chinese_works_on_japanese_answers() -> None:
    report = code_switching_rate(["漢字です", "检证です", "и です"], "ja", to="zh")
    assert (report.overall.hits, report.overall.total, report.skipped) == (1, 3, 0)
    assert report.pairs["ja", "zh"].hits == 1
    assert code_switching_rate(["检索", "検索"], "zh", to="ja").overall.hits == 1
    assert code_switching_rate(["ok 检证です"], "ja").pairs["ja", "zh"].rate == 1


def test_han_beside_kana_is_japanese_on_request() -> None:
    response = "He said 日本語です and then 我们 left."
    assert words(response, "en") == [("日本語", None), ("です", None), ("我们", None)]
    assert words(response, "en", han_without_kana=True) == [("日本語", "ja"), ("です", None), ("我们", "zh")]
    responses = ["the 日本語です", "the 我们"]
    assert code_switching_rate(responses, "en", to="zh").overall.hits == 2
    assert code_switching_rate(responses, "en", to="zh", han_without_kana=True).overall.hits == 1
    assert code_switching_rate(responses, "en", to="ja", han_without_kana=True).overall.hits == 1
    assert code_switching_rate(responses, "en", to="Hani", han_without_kana=True).overall.hits == 2


def test_the_forms_are_what_the_encodings_say() -> None:
    for char in japanese_forms():
        assert char.encode("cp932"), char
        for encoding in ("gb2312", "big5"):
            with pytest.raises(UnicodeEncodeError):
                char.encode(encoding)
    assert {"说", "個"} & chinese_forms() == {"说"}, "Japanese writes 個, too"
    assert chinese_forms().isdisjoint(japanese_forms())
    common = "".join(
        bytes((row, cell)).decode("euc_jp", "ignore") for row in range(0xB0, 0xD0) for cell in range(161, 255)
    )
    assert chinese_forms().isdisjoint(common), "the first level of JIS X 0208"
    assert 2800 < len(chinese_forms()) < 3200
