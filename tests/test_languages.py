"""The table of languages, and script evidence from texts and from pieces of UTF-8."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
import regex
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART_TAGS
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from sae_posttrain import languages
from sae_posttrain.languages import (
    LANGUAGES,
    SCRIPTS,
    get_language,
    is_same_language,
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


def test_table_is_sound() -> None:
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


def test_stand_ins_come_nearest_first_and_once() -> None:
    assert stand_ins("cs") == ("pl", "en")
    assert stand_ins("en") == ()
    for code in LANGUAGES:
        lenders = stand_ins(code)
        assert len({code, *lenders}) == 1 + len(lenders)
        assert all(lender in LANGUAGES for lender in lenders)


def test_every_assigned_character_has_exactly_one_script() -> None:
    text = "".join(ASSIGNED)
    owners = dict.fromkeys(ASSIGNED, 0)
    for script in SCRIPTS:
        for char in regex.findall(rf"\p{{Script={script}}}", text):
            owners[char] += 1
    assert {char for char, count in owners.items() if count != 1} == set()


def test_regional_tags_names_and_aliases() -> None:
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


def test_a_script_in_the_tag_replaces_the_usual_ones() -> None:
    assert get_language("sr-Latn").scripts == ("Latn",)
    assert get_language("uz_Cyrl_UZ").scripts == ("Cyrl",)
    assert get_language("arb_Latn").code == "ar"
    assert LANGUAGES["ar"].scripts == ("Arab",)


def test_every_tag_of_mbart_is_read() -> None:
    assert {get_language(tag).code for tag in MBART_TAGS} == {tag.split("_")[0] for tag in MBART_TAGS}


NLLB_ABSENT = """
acm aka ast awa ayr azb bam ban bem bug cjk crh dik dyu dzo ewe fij fon fuv gaz grn ilo kab kac kam kas kbp kik kmb kon
ltg lua lug luo lus mni mos nso quy run sag shn ssw taq tsn tso tum twi tzm umb wol
"""


def test_every_tag_of_flores_is_read_or_called_absent() -> None:
    """NLLB's tokenizer carries FLORES-200's tags."""
    absent = set(NLLB_ABSENT.split())
    for tag in FAIRSEQ_LANGUAGE_CODES:
        language, script = tag.split("_")
        if language in absent:
            with pytest.raises(ValueError, match="which is not in the table of languages"):
                get_language(tag)
        else:
            usual = {"Hans": {"Hani"}, "Hant": {"Hani"}, "Jpan": {"Hani", "Hira", "Kana"}}
            assert set(get_language(tag).scripts) == usual.get(script, {script}), tag
            assert get_language(language).code == get_language(tag).code


def test_every_name_of_whisper_is_read_as_its_code() -> None:
    for name, code in TO_LANGUAGE_CODE.items():
        if code != "br":  # Breton
            assert get_language(name) == get_language(code), name
    with pytest.raises(ValueError, match="Breton, which is not in the table"):
        get_language("breton")


@pytest.mark.parametrize(
    ("tag", "code", "scripts"),
    [
        ("zho", "zh", "Hani"),
        ("chi", "zh", "Hani"),
        ("cmn_Hani", "zh", "Hani"),
        ("zho_Latn", "zh", "Latn"),
        ("zh-Hant-TW", "zh", "Hani"),
        ("zh-cmn-Hans", "zh", "Hani"),
        ("zh-yue", "yue", "Hani"),
        ("ar-arz", "arz", "Arab"),
        ("zh_CN.UTF-8", "zh", "Hani"),
        ("zh-CHS", "zh", "Hani"),
        ("zho-CHN", "zh", "Hani"),
        ("jpn_Jpan", "ja", "Hani Hira Kana"),
        ("ja-Hrkt", "ja", "Hira Kana"),
        ("kor_Hang", "ko", "Hang"),
        ("ko-Kore-KR", "ko", "Hang"),
        ("kmr_Latn", "ku", "Latn"),
        ("pbt_Arab", "ps", "Arab"),
        ("fas_Arab", "fa", "Arab"),
        ("urd_Latn", "ur", "Latn"),
        ("ur-Aran", "ur", "Arab"),
        ("sr_RS@latin", "sr", "Latn"),
        ("be-tarask", "be", "Cyrl"),
        ("en-u-ca-gregory", "en", "Latn"),
        ("pt-BR", "pt", "Latn"),
        ("es-419", "es", "Latn"),
        ("en_XX", "en", "Latn"),
        ("Simplified Chinese", "zh", "Hani"),
        ("Chinese (Traditional)", "zh", "Hani"),
        ("Chinese, Simplified", "zh", "Hani"),
        ("chinese-simplified", "zh", "Hani"),
        ("Standard Arabic", "ar", "Arab"),
        ("Arabic (Egyptian)", "arz", "Arab"),
        ("Portuguese (Brazil)", "pt", "Latn"),
        ("Serbian (Latin)", "sr", "Latn"),
        ("Cyrillic Uzbek", "uz", "Cyrl"),
        ("Norwegian Bokmål", "no", "Latn"),
        ("Myanmar (Burmese)", "my", "Mymr"),
        ("Greek, Modern (1453-)", "el", "Grek"),
        ("fil_Latn", "fil", "Latn"),
        ("Filipino", "fil", "Latn"),
        ("tgl_Latn", "tl", "Latn"),
        ("Tagalog", "tl", "Latn"),
    ],
)
def test_tags_and_names_of_public_data(tag: Any, code: Any, scripts: Any) -> None:
    found = get_language(tag)
    assert (found.code, set(found.scripts)) == (code, set(scripts.split()))


def test_tagalog_and_filipino_are_one_language_under_two_codes() -> None:
    assert is_same_language("tl", "fil")
    assert not is_same_language("tl", "ceb")
    assert stand_ins("tl") == ("fil", "en")
    assert stand_ins("fil") == ("tl", "en")


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("Chineese", "zh"), ("korea", "ko"), ("Frnech", "fr"), ("jp", "ja"), ("cn", "zh")]
)
def test_an_unknown_language_names_the_nearest_where_nothing_else_can_be_meant(wrong: Any, nearest: Any) -> None:
    with pytest.raises(ValueError, match=rf"unknown language '{wrong}'; the nearest known code is '({nearest})"):
        get_language(wrong)


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("wuu", "Wu Chinese, which is not in the table"),
        ("zh-wuu", "Wu Chinese, which is not in the table"),
        ("azb_Arab", "South Azerbaijani, which is not in the table"),
        ("Sorbian", "Sorbian, which is not in the table"),  # one letter from Serbian
        ("Sudanese", "Sudanese, which is not in the table"),  # one letter from Sundanese
        ("Romani", "Romani, which is not in the table"),  # the start of Romanian
        ("Swiss German", "Swiss German, which is not in the table"),
        ("Arabic (Sudanese)", "Sudanese Arabic, which is not in the table"),
        ("kr", "Kanuri, which is 'knc' here; Korean is 'ko'"),
        ("und", "leave the value empty"),
        ("zh-classical", "its part 'classical'"),
        ("sr-Lath", "'Lath' is not an ISO 15924 code"),
        ("zhh", "expected an ISO 639 code"),
        ("Ladein", "expected an ISO 639 code"),
        ("Klingon", "expected an ISO 639 code"),
        ("", "expected an ISO 639 code"),
    ],
)
def test_what_is_no_language_of_ours_gets_no_other_suggested(tag: Any, says: Any) -> None:
    with pytest.raises(ValueError, match="unknown language") as error:
        get_language(tag)
    assert says in str(error.value)
    assert "nearest" not in str(error.value)


def test_script_counts_leaves_out_what_scripts_share() -> None:
    assert script_counts("a1, b! — 你好。\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}é") == {"Latn": 3, "Hani": 2}
    assert script_counts("e\N{COMBINING ACUTE ACCENT}") == {"Latn": 1}
    assert script_counts("ที่") == {"Thai": 3}
    assert script_counts("12:30 😀 ¿?") == {}


def test_script_counts_agrees_with_unicode_names() -> None:
    """An oracle that is not the regex library: the name of a letter starts with its script's name."""
    first_word = {"CYRILLIC": "Cyrl", "THAI": "Thai", "HANGUL": "Hang", "HEBREW": "Hebr", "GEORGIAN": "Geor"}
    for char in ASSIGNED:
        script = first_word.get(unicodedata.name(char, "").split(" ")[0])
        if script and unicodedata.category(char) == "Lo":
            assert script_counts(char) == {script: 1}, unicodedata.name(char)


@pytest.mark.parametrize("char", ["é", "П", "ไ", "你", "한", "が", "ア", "क", "𠀀", "א"])
def test_token_script_of_whole_and_cut_characters(char: Any) -> None:
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
def test_token_script_of_pieces(raw: Any, script: Any) -> None:
    assert token_script(raw) == script


def test_completions_agree_with_decoding_them_all() -> None:
    """The oracle decodes every two-byte continuation instead of counting code points."""
    for lead in range(0xE1, 0xF0):
        scripts = set()
        for tail in range(1 << 12):
            raw = bytes([lead, 0x80 | tail >> 6, 0x80 | tail & 63])
            scripts |= set(script_counts(raw.decode(errors="ignore")))
        expected = scripts.pop() if len(scripts) == 1 else None
        assert token_script(bytes([lead])) == expected, hex(lead)


def test_scripts_unknown_to_an_older_regex_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "SCRIPTS", ("Zzzx", "Latn", "Hani"))
    languages._script_pattern.cache_clear()
    pattern = languages._script_pattern()
    languages._script_pattern.cache_clear()
    assert set(pattern.groupindex) == {"Latn", "Hani"}
