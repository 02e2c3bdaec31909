"""Distinguish Chinese from Japanese by the forms of their characters, without a model.

A character that no Japanese encoding contains is Chinese (说, 这). A character that Japan simplified in its own way or
created, and that no Chinese encoding contains, is Japanese (検, 働). `tests/han_forms.py` derives the lists below.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import regex

# JIS X 0213 or 0208 contains these with another meaning or as rare variants. Modern Japanese uses other forms.
_CHINESE_BESIDE = (
    "关养呕壳巩帮开惮沪泻渗灵灾烬瞩筹肤荣踌迁阳阴么吨圣复宁岭异扑洼离"  # simplified forms in the first level of GB 2312
    "你您吧呢啊爸們它她嗎麼沒讓很"  # words that only Chinese has
    "將據對從單樣發變驗處號"  # traditional forms that almost never occur in a Japanese name
    "价从决况听坏档网赶"  # simplified forms in the second level of JIS X 0208
)
_NAMES = "彥閒"  # not in Japanese encodings, but used in Japanese names: 澁澤龍彥, 内田百閒
# Forms reformed in Japan: OpenCC's table of Japanese variants without what GB 2312, Big5 or OpenCC's other tables have.
_REFORMED = (
    "両乗亀亜仏仮価倹児円処剣剤剰労効勅勧勲単厳収呉呪唖営噛団囲図圏圧塁塩増壊壌壱売変奨嬢実寛対専巌巣巻帯帰庁広廃"
    "弐弾従徳徴応恵悩悪懐戦戯戸戻払抜択拝拠拡挙挿捜掲掻揺摂撃撹斉斎晩暁暦曁曽栄桜桝桟検楡楽様権歓歩歯歳歴毎気汚沢"
    "浄涙渇済渉渋渓満溌滝瀬焔焼犠猟獣畳痩発皐県砕稲穂穏穣竃竜粋粛経絵継続総縁縄縦繊繋繍聡聴脳臓舎舗茘荘蔵薫薬蛍蝋"
    "覇覚覧観訳読譲賛転軽輌辺逓遅郷酔醗醤醸釈鉄鉱銭鋳錬関闘陥険隠雑霊頼顕駅駆騒験髄髪鴎鶏鹸麹麺黒黙鼈齢"
)
_MADE = "働込匂峠枠噺塀凧匁鋲躾辷"  # created in Japan. Those for names (栃, 辻, 畑) also occur in Chinese texts
_HAN = regex.compile(r"[\p{Hani}]+")
_KANA = regex.compile(r"[\p{Hira}\p{Kana}]")
_PASSAGE = regex.compile(r"[\p{Hani}\p{Hira}\p{Kana}\p{N}ー・、，。「」『』（）〜～！？]+")
_NAME = 12  # maximum number of characters of a name in quotation marks
_QUOTED = regex.compile(rf"[「『“‘《〈\"'](?P<name>[\p{{Hani}}\p{{Hira}}\p{{Kana}}ー・]{{2,{_NAME}}}+)[」』”’》〉\"']")


@cache
def chinese_forms() -> frozenset[str]:
    """Han characters in common use in Chinese that Japanese does not use.

    They are the characters of GB 2312 and of Big5's first level that neither JIS X 0208 nor JIS X 0213 contains, and a
    few more.
    """
    simplified = _decoded(range(0xB0, 0xF8), range(0xA1, 0xFF), "gb2312")
    traditional = _decoded(range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF)), "big5")
    found = {char for char in simplified + traditional if _HAN.match(char) and not _japan_encodes(char)}
    return frozenset(found.union(_CHINESE_BESIDE).difference(_NAMES))


@cache
def japanese_forms() -> frozenset[str]:
    """Kanji in common use in Japanese that Chinese does not use."""
    return frozenset(_REFORMED + _MADE)


def _decoded(leads: range, trails: range | tuple[int, ...], encoding: str) -> str:
    pairs = (bytes((lead, trail)) for lead in leads for trail in trails)
    return "".join(pair.decode(encoding, "ignore") for pair in pairs)


def _japan_encodes(char: str) -> bool:
    try:
        char.encode("shift_jis_2004")
    except UnicodeEncodeError:
        return False
    return True


def run_around(text: str, place: int, since: int) -> tuple[int, int]:
    """Start and end of the run of Han characters around `place`. The start is not before `since`."""
    start = place
    while start > since and _HAN.match(text[start - 1]):
        start -= 1
    match = _HAN.match(text, place)
    return start, match.end() if match else place + 1


def in_quoted_name(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is part of a quoted name in Han and kana, such as the brand 「優の良品」 in Chinese."""
    for match in _QUOTED.finditer(text, max(0, start - _NAME - 1), end + _NAME + 1):
        if match.start("name") <= start and end <= match.end("name"):
            return 2 * len(_KANA.findall(match["name"])) <= len(match["name"])
    return False


def japanese_passages(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each passage of Han and kana. A passage with kana is Japanese, whatever Han it contains."""
    for match in _PASSAGE.finditer(text):
        if _KANA.search(match[0]):
            yield match.span()
