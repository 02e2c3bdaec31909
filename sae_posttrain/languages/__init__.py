"""The table of languages: code, name, scripts, and the language whose baseline may replace a missing one."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NamedTuple

import regex

from .tags import read_tag


@dataclass(frozen=True)
class Language:
    """A language of the table. Scripts are ISO 15924 codes, the main script first."""

    code: str
    name: str
    scripts: tuple[str, ...]
    family: str | None  # code of the language whose baseline is used if this language has none


# scripts | family | languages with these scripts and this family, as code and name
_TABLE = """
Latn | - | en English, es Spanish, fr French, vi Vietnamese
Latn | ca | oc Occitan
Latn | cs | sk Slovak
Latn | da | fo Faroese, is Icelandic, no Norwegian, sv Swedish
Latn | de | da Danish, lb Luxembourgish, nl Dutch
Latn | en | cy Welsh, de German, fi Finnish, ga Irish, gd Scottish Gaelic, ha Hausa, haw Hawaiian, hu Hungarian
Latn | en | ig Igbo, mi Maori, pl Polish, sm Samoan, sq Albanian, st Sotho, sw Swahili, tl Tagalog, tr Turkish
Latn | en | yo Yoruba, zu Zulu, tpi Tok Pisin, nus Nuer
Latn | es | pt Portuguese, ca Catalan, eo Esperanto, eu Basque, it Italian, pap Papiamento
Latn | fi | et Estonian
Latn | fr | ht Haitian Creole, mg Malagasy
Latn | ha | knc Kanuri
Latn | hr | bs Bosnian, sl Slovenian
Latn | id | jv Javanese, ms Malay, su Sundanese, ace Acehnese, min Minangkabau, bjn Banjar
Latn | it | la Latin, mt Maltese, ro Romanian, sc Sardinian, vec Venetian, lmo Lombard, lij Ligurian, scn Sicilian
Latn | it | fur Friulian
Latn | lt | lv Latvian
Latn | ms | id Indonesian
Latn | nl | af Afrikaans, fy Frisian, li Limburgish
Latn | pl | cs Czech, hr Croatian, lt Lithuanian, szl Silesian
Latn | pt | gl Galician, kea Kabuverdianu
Latn | sw | ny Chichewa, rw Kinyarwanda, sn Shona, so Somali, ln Lingala
Latn | tl | fil Filipino, ceb Cebuano, pag Pangasinan, war Waray
Latn | tr | az Azerbaijani, ku Kurdish, tk Turkmen
Latn | zu | xh Xhosa
Arab | - | ar Arabic
Arab | ar | fa Persian, ug Uyghur, ars Najdi Arabic, aeb Tunisian Arabic, acq Ta'izzi-Adeni Arabic
Arab | ar | ary Moroccan Arabic, arz Egyptian Arabic, apc Levantine Arabic
Arab | fa | ckb Central Kurdish, ps Pashto, ur Urdu
Arab | ur | sd Sindhi
Armn | - | hy Armenian
Beng | - | bn Bengali
Beng | bn | as Assamese
Cyrl | - | ru Russian
Cyrl | bg | mk Macedonian
Cyrl | ru | ba Bashkir, be Belarusian, bg Bulgarian, kk Kazakh, ky Kyrgyz, tg Tajik, tt Tatar, uk Ukrainian
Cyrl Latn | ru | sr Serbian
Cyrl Mong | ru | mn Mongolian
Deva | - | hi Hindi
Deva | hi | mr Marathi, ne Nepali, sa Sanskrit, hne Chhattisgarhi, mai Maithili, mag Magahi, bho Bhojpuri
Ethi | - | am Amharic
Ethi | am | ti Tigrinya
Geor | - | ka Georgian
Grek | - | el Greek
Gujr | hi | gu Gujarati
Guru | hi | pa Punjabi
Hang | - | ko Korean
Hani | - | zh Chinese
Hani | zh | yue Cantonese
Hani Hira Kana | - | ja Japanese
Hebr | ar | he Hebrew
Hebr | he | yi Yiddish
Khmr | th | km Khmer
Knda | te | kn Kannada
Laoo | th | lo Lao
Latn Cyrl | tr | uz Uzbek
Mlym | ta | ml Malayalam
Mymr | th | my Burmese
Olck | - | sat Santali
Orya | bn | or Odia
Sinh | - | si Sinhala
Taml | - | ta Tamil
Telu | - | te Telugu
Thaa | - | dv Dhivehi
Thai | - | th Thai
Tibt | - | bo Tibetan
"""

# The values of Unicode's Script property, as ISO 15924 codes. Zyyy (Common) and Zinh (Inherited) belong to no language.
_SCRIPT_CODES = """
Adlm Aghb Ahom Arab Armi Armn Avst Bali Bamu Bass Batk Beng Berf Bhks Bopo Brah Brai Bugi Buhd Cakm Cans Cari Cham
Cher Chrs Copt Cpmn Cprt Cyrl Deva Diak Dogr Dsrt Dupl Egyp Elba Elym Ethi Gara Geor Glag Gong Gonm Goth Gran Grek
Gujr Gukh Guru Hang Hani Hano Hatr Hebr Hira Hluw Hmng Hmnp Hung Ital Java Jurc Kali Kana Kawi Khar Khmr Khoj Kits
Knda Krai Kthi Lana Laoo Latn Lepc Limb Lina Linb Lisu Lyci Lydi Mahj Maka Mand Mani Marc Medf Mend Merc Mero Mlym
Modi Mong Mroo Mtei Mult Mymr Nagm Nand Narb Nbat Newa Nkoo Nshu Ogam Olck Onao Orkh Orya Osge Osma Ougr Palm Pauc
Pcun Perm Phag Phli Phlp Phnx Plrd Prti Rjng Rohg Runr Samr Sarb Saur Seal Sgnw Shaw Shrd Sidd Sidt Sind Sinh Sogd
Sogo Sora Soyo Sund Sunu Sylo Syrc Tagb Takr Tale Talu Taml Tang Tavt Tayo Telu Tfng Tglg Thaa Thai Tibt Tirh Tnsa
Todr Tols Toto Tutg Ugar Vaii Vith Wara Wcho Xpeo Xsux Yezi Yiii Zanb Zinh Zyyy
"""
SCRIPTS: tuple[str, ...] = tuple(_SCRIPT_CODES.split())
_SHARED_SCRIPTS = ("Zinh", "Zyyy")
# Filipino is the standard form of Tagalog. Some data sets use 'tl' and some 'fil' for the same texts.
_TWINS = {"fil": "tl", "tl": "fil"}
UNSPACED_SCRIPTS = ("Hani", "Hira", "Kana", "Khmr", "Laoo", "Mymr", "Thai", "Tibt")  # no spaces between words


def _parse_table() -> Mapping[str, Language]:
    languages = {}
    for line in _TABLE.strip().splitlines():
        scripts, family, entries = (cell.strip() for cell in line.split("|"))
        for entry in entries.split(", "):
            code, name = entry.split(" ", 1)
            languages[code] = Language(code, name, tuple(scripts.split()), None if family == "-" else family)
    return MappingProxyType(languages)


LANGUAGES: Mapping[str, Language] = _parse_table()


@lru_cache(maxsize=4096)
def get_language(code: str) -> Language:
    """The language for a code, a tag or an English name. Case is ignored.

    A script in the tag replaces the usual ones: 'sr-Latn', 'arb_Latn'.

    Args:
        code: ISO 639-1 ('zh') or 639-3 ('zho', 'cmn'); a tag of FLORES or FineWeb-2 ('zho_Hans'), of BCP-47
            ('pt-BR', 'zh-Hant-TW', 'zh-yue') or of POSIX ('zh_CN.UTF-8'); or a name ('Simplified Chinese').

    Raises: ValueError: the language is unknown. The message suggests a language only if no other can be meant.

    Example:
        >>> get_language("cmn_Hani").code
        'zh'
    """
    if not isinstance(code, str):
        raise ValueError(f"expected a language such as 'zh', got {code!r}, a {type(code).__name__}.")
    found, written = read_tag(code, {known: language.name for known, language in LANGUAGES.items()}, SCRIPTS)
    return replace(LANGUAGES[found], scripts=written) if written else LANGUAGES[found]


def script_counts(text: str) -> dict[str, int]:
    """Number of characters of `text` by script. Common and Inherited (digits, punctuation, emoji) are not counted."""
    counts: dict[str, int] = {}
    for char, count in Counter(text).items():
        script = _script_of(char)
        if script is not None:
            counts[script] = counts.get(script, 0) + count
    return counts


def stand_ins(code: str) -> tuple[str, ...]:
    """The languages whose baseline may be used if this language has none, the closest first."""
    found = [get_language(code).code]
    while (family := LANGUAGES[found[-1]].family) is not None and family not in found:
        found.append(family)
    twin = [_TWINS[found[0]]] if found[0] in _TWINS else []
    return tuple(dict.fromkeys([*twin, *found[1:]]))


def is_same_language(one: str, other: str) -> bool:
    """Whether two codes of the table mean the same language, such as 'tl' and 'fil'."""
    return one == other or _TWINS.get(one) == other


class Letters(NamedTuple):
    """The letters in the bytes of a token."""

    scripts: frozenset[str]
    """Scripts of the complete letters."""
    begun: str | None
    """Script of the letter that the last bytes begin; None if they begin none, or if the script is ambiguous."""
    cut: bytes
    """The last bytes, if they are the beginning of a character that is not complete."""


def letters_in(raw: bytes) -> Letters:
    """The scripts of the letters in a token's bytes, which may begin and end inside a character.

    Byte-level BPE splits characters. The first bytes of a character (b'\\xe4\\xbd') have the script of the characters
    that begin with them, if these are mostly letters of one script. The last bytes of a character, at the start of the
    token, are ignored.

    Example:
        >>> letters_in("a ".encode() + b"\\xe4\\xbd")
        Letters(scripts=frozenset({'Latn'}), begun='Hani', cut=b'\\xe4\\xbd')
    """
    text, cut = _decode(raw)
    return Letters(frozenset(script_counts(text)), _completion_script(cut) if cut else None, cut)


def token_script(raw: bytes) -> str | None:
    """The script of a token's letters, complete or begun (see `letters_in`); None if it has none or several.

    The result is also None if the last bytes begin a character that can be of several scripts.
    """
    letters = letters_in(raw)
    if letters.cut and letters.begun is None:
        return None
    scripts = letters.scripts | ({letters.begun} if letters.begun else set())
    return next(iter(scripts)) if len(scripts) == 1 else None


def _decode(raw: bytes) -> tuple[str, bytes]:
    """The complete characters of `raw`, and the bytes of an incomplete character at its end."""
    decoder = getincrementaldecoder("utf-8")("ignore")
    return decoder.decode(raw), decoder.getstate()[0]


@lru_cache(maxsize=4096)
def _completion_script(prefix: bytes) -> str | None:
    """The script of most characters whose UTF-8 starts with `prefix`, if all letters among them have this script."""
    missing = _encoded_length(prefix[0]) - len(prefix)
    bits = int.from_bytes(prefix[:1], "big") & (0xFF >> (_encoded_length(prefix[0]) + 1))
    for byte in prefix[1:]:
        bits = bits << 6 | byte & 0x3F
    shortest = {2: 0x80, 3: 0x800, 4: 0x10000}[_encoded_length(prefix[0])]
    start, stop = max(bits << 6 * missing, shortest), min((bits + 1) << 6 * missing, 0x110000)
    found: Counter[str | None] = Counter()
    for point in range(start, stop):
        if not _UNASSIGNED.match(chr(point)):
            found[_script_of(chr(point))] += 1
            if len(found.keys() - {None}) > 1:
                return None
    return found.most_common(1)[0][0] if found else None


def _encoded_length(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


# Inherited marks occur in any script, so they are no evidence against one.
_UNASSIGNED = regex.compile(r"[\p{Cn}\p{Cs}\p{Co}\p{Script=Zinh}]")


@lru_cache(maxsize=1 << 16)
def _script_of(char: str) -> str | None:
    """The script of a character; None for Common and Inherited."""
    match = _script_pattern().match(char)
    return match.lastgroup if match else None


@cache
def _script_pattern() -> regex.Pattern[str]:
    """A pattern for one character, in a group named after its script. Scripts unknown to `regex` are left out."""
    groups = []
    for script in SCRIPTS:
        if script not in _SHARED_SCRIPTS:
            try:
                regex.compile(rf"\p{{Script={script}}}")
            except regex.error:
                continue
            groups.append(rf"(?P<{script}>\p{{Script={script}}})")
    return regex.compile("|".join(groups))
