"""Chinese and Japanese told apart by the forms of their characters, without a model.

What no Japanese encoding can write is Chinese (说, 这). What Japan simplified in its own way, or made, and
no Chinese encoding can write, is Japanese (検, 働). `tests/han_forms.py` derives the lists below.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import regex

# In JIS X 0213 or 0208 by coincidence, with another meaning or as a rare variant; modern Japanese writes other forms.
_CHINESE_BESIDE = (
    "关养呕壳巩帮开惮沪泻渗灵灾烬瞩筹肤荣踌迁阳阴么吨圣复宁岭异扑洼离"  # simplified, at GB 2312's first level
    "你您吧呢啊爸們它她嗎麼沒讓很"  # words of Chinese
    "將據對從單樣發變驗處號"  # traditional, and as good as never in a Japanese name
    "价从决况听坏档网赶"  # simplified, at the second level of JIS X 0208
)
_NAMES = "彥閒"  # that Japanese encodings lack, but names in Japanese keep: 澁澤龍彥, 内田百閒
# Reformed in Japan: OpenCC's table of Japanese variants, less what GB 2312, Big5 or OpenCC's other tables hold.
_REFORMED = (
    "両乗亀亜仏仮価倹児円処剣剤剰労効勅勧勲単厳収呉呪唖営噛団囲図圏圧塁塩増壊壌壱売変奨嬢実寛対専巌巣巻帯帰庁広廃"
    "弐弾従徳徴応恵悩悪懐戦戯戸戻払抜択拝拠拡挙挿捜掲掻揺摂撃撹斉斎晩暁暦曁曽栄桜桝桟検楡楽様権歓歩歯歳歴毎気汚沢"
    "浄涙渇済渉渋渓満溌滝瀬焔焼犠猟獣畳痩発皐県砕稲穂穏穣竃竜粋粛経絵継続総縁縄縦繊繋繍聡聴脳臓舎舗茘荘蔵薫薬蛍蝋"
    "覇覚覧観訳読譲賛転軽輌辺逓遅郷酔醗醤醸釈鉄鉱銭鋳錬関闘陥険隠雑霊頼顕駅駆騒験髄髪鴎鶏鹸麹麺黒黙鼈齢"
)
_MADE = "働込匂峠枠噺塀凧匁鋲躾辷"  # in Japan, for words; those of names (栃, 辻, 畑) Chinese texts keep
_HAN = regex.compile(r"[\p{Hani}]+")
_KANA = regex.compile(r"[\p{Hira}\p{Kana}]")
_PASSAGE = regex.compile(r"[\p{Hani}\p{Hira}\p{Kana}\p{N}ー・、，。「」『』（）〜～！？]+")
_NAME = 12  # characters of a name in quotation marks, at most
_QUOTED = regex.compile(rf"[「『“‘《〈\"'](?P<name>[\p{{Hani}}\p{{Hira}}\p{{Kana}}ー・]{{2,{_NAME}}}+)[」』”’》〉\"']")


@cache
def chinese_forms() -> frozenset[str]:
    """Han characters that Japanese does not write, of those in common use in Chinese.

    Those of GB 2312, and of Big5's first level, that neither JIS X 0208 nor JIS X 0213 holds, and a few more.
    """
    simplified = _decoded(range(0xB0, 0xF8), range(0xA1, 0xFF), "gb2312")
    traditional = _decoded(range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF)), "big5")
    found = {char for char in simplified + traditional if _HAN.match(char) and not _japan_encodes(char)}
    return frozenset(found.union(_CHINESE_BESIDE).difference(_NAMES))


@cache
def japanese_forms() -> frozenset[str]:
    """Kanji in common use in Japanese that Chinese does not write."""
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
    """Start and end of the run of Han characters that holds this place; it starts at `since` at the earliest."""
    start = place
    while start > since and _HAN.match(text[start - 1]):
        start -= 1
    match = _HAN.match(text, place)
    return start, match.end() if match else place + 1


def in_quoted_name(text: str, start: int, end: int) -> bool:
    """Whether this is part of a quoted name in Han with some kana, 「優の良品」. Chinese writes brands so."""
    for match in _QUOTED.finditer(text, max(0, start - _NAME - 1), end + _NAME + 1):
        if match.start("name") <= start and end <= match.end("name"):
            return 2 * len(_KANA.findall(match["name"])) <= len(match["name"])
    return False


def japanese_passages(text: str) -> Iterator[tuple[int, int]]:
    """Where text in Han and kana stands: what holds kana is Japanese, whatever Han it holds."""
    for match in _PASSAGE.finditer(text):
        if _KANA.search(match[0]):
            yield match.span()
