"""The table of languages, and script evidence from texts and from pieces of UTF-8."""

import sys
import unicodedata

import pytest
import regex

from sae_posttrain import languages
from sae_posttrain.languages import (
    LANGUAGES,
    SCRIPTS,
    get_language,
    script_counts,
    stand_ins,
    token_script,
)

SASFT_LANGUAGES = ["en", "es", "fr", "ja", "ko", "pt", "th", "vi", "zh", "ar", "ru"]
# The languages of the paper's fine-tuning data, as its authors write them.
SASFT_TRAINING_CODES = """
zh en ja es de ru fr ko vi ar th id pt sat_Olck sr yue_Hant tpi_Latn li kea_Latn sm knc_Arab ace_Arab pap_Latn
min_Arab mi ars_Arab bjn_Arab ydd_Hebr plt_Latn te pag_Latn arb_Latn he sc aeb_Arab oc vec_Latn lmo_Latn ba hne_Deva
nus_Latn lij_Latn scn_Latn fur_Latn mai_Deva ory_Orya lb ln my war_Latn szl_Latn mag_Deva tt uzn_Latn ht cy mt
acq_Arab ug gu lo si ka km hy bn tr ary_Arab ur ms uk bg fa it kk mk fi et
"""
ASSIGNED = [
    chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) not in ("Cn", "Co", "Cs")
]


def test_table_is_sound():
    assert set(SASFT_LANGUAGES) <= set(LANGUAGES)
    for code in SASFT_TRAINING_CODES.split():
        get_language(code)
    for code, language in LANGUAGES.items():
        assert language.code == code
        assert language.name
        assert language.scripts
        assert set(language.scripts) <= set(SCRIPTS)
        assert language.family != code
        assert language.family is None or language.family in LANGUAGES


def test_stand_ins_come_nearest_first_and_once():
    assert stand_ins("cs") == ("pl", "en")
    assert stand_ins("en") == ()
    for code in LANGUAGES:
        lenders = stand_ins(code)
        assert len({code, *lenders}) == 1 + len(lenders)
        assert all(lender in LANGUAGES for lender in lenders)


def test_every_assigned_character_has_exactly_one_script():
    text = "".join(ASSIGNED)
    owners = dict.fromkeys(ASSIGNED, 0)
    for script in SCRIPTS:
        for char in regex.findall(rf"\p{{Script={script}}}", text):
            owners[char] += 1
    assert {char for char, count in owners.items() if count != 1} == set()


def test_regional_tags_names_and_aliases():
    for tag, code in {
        "zh": "zh",
        "zh-CN": "zh",
        "zh_Hant": "zh",
        "pt-BR": "pt",
        "EN": "en",
        "Chinese": "zh",
        "scottish gaelic": "gd",
        "iw": "he",
        "nb-NO": "no",
        "yue_Hant": "yue",
        "ory_Orya": "or",
    }.items():
        assert get_language(tag) == LANGUAGES[code], tag


def test_a_script_in_the_tag_replaces_the_usual_ones():
    assert get_language("sr-Latn").scripts == ("Latn",)
    assert get_language("uz_Cyrl_UZ").scripts == ("Cyrl",)
    assert get_language("arb_Latn").code == "ar"
    assert LANGUAGES["ar"].scripts == ("Arab",)


@pytest.mark.parametrize(("wrong", "nearest"), [("zhh", "zh"), ("Chineese", "zh"), ("korea", "ko")])
def test_unknown_language_names_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=rf"unknown language '{wrong}'; the nearest known code is '({nearest})"):
        get_language(wrong)


def test_script_counts_leaves_out_what_scripts_share():
    assert script_counts("a1, b! — 你好。\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}é") == {"Latn": 3, "Hani": 2}
    assert script_counts("e\N{COMBINING ACUTE ACCENT}") == {"Latn": 1}
    assert script_counts("ที่") == {"Thai": 3}
    assert script_counts("12:30 😀 ¿?") == {}


def test_script_counts_agrees_with_unicode_names():
    """An oracle that is not the regex library: the name of a letter starts with its script's name."""
    first_word = {"CYRILLIC": "Cyrl", "THAI": "Thai", "HANGUL": "Hang", "HEBREW": "Hebr", "GEORGIAN": "Geor"}
    for char in ASSIGNED:
        script = first_word.get(unicodedata.name(char, "").split(" ")[0])
        if script and unicodedata.category(char) == "Lo":
            assert script_counts(char) == {script: 1}, unicodedata.name(char)


@pytest.mark.parametrize("char", ["é", "П", "ไ", "你", "한", "が", "ア", "क", "𠀀", "א"])
def test_token_script_of_whole_and_cut_characters(char):
    raw = char.encode()
    (script,) = script_counts(char)
    assert token_script(raw) == script
    assert token_script(b" 1." + raw) == script
    assert token_script(raw[-1:] + raw) == script
    assert token_script(raw[1:]) is None


@pytest.mark.parametrize(
    ("raw", "script"),
    [
        (b"\xe4\xbd", "Hani"),
        (b"\xe4", "Hani"),
        (b"\xec\x95", "Hang"),
        (b"\xd0", "Cyrl"),
        (b"\xe0\xb8", "Thai"),
        (b"\xe3\x81", "Hira"),
        (b"\xbd\xe5", "Hani"),
        (b"\xe3", None),  # kana, Han and symbols
        (b"\xf0", None),
        (b"\xf0\x9f", None),  # emoji
        (b"\xc2", None),  # quotation marks and a few ordinals, which are Latin letters
        (b"\xef\xbc", None),  # full-width punctuation, and full-width Latin letters
        (b"\xbd", None),
        (b"", None),
        (b" 12", None),
        (b"\xff", None),
        ("aя".encode(), None),
        (b"a\xe4\xbd", None),
        (b"a\xe3", None),
    ],
)
def test_token_script_of_pieces(raw, script):
    assert token_script(raw) == script


def test_completions_agree_with_decoding_them_all():
    """The oracle decodes every two-byte continuation instead of counting code points."""
    for lead in range(0xE1, 0xF0):
        scripts = set()
        for tail in range(1 << 12):
            raw = bytes([lead, 0x80 | tail >> 6, 0x80 | tail & 63])
            scripts |= set(script_counts(raw.decode(errors="ignore")))
        expected = scripts.pop() if len(scripts) == 1 else None
        assert token_script(bytes([lead])) == expected, hex(lead)


def test_scripts_unknown_to_an_older_regex_are_left_out(monkeypatch):
    monkeypatch.setattr(languages, "SCRIPTS", ("Zzzx", "Latn", "Hani"))
    languages._script_pattern.cache_clear()
    pattern = languages._script_pattern()
    languages._script_pattern.cache_clear()
    assert set(pattern.groupindex) == {"Latn", "Hani"}
