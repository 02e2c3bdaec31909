"""One table of languages: code, name, the scripts they are written in, and whose baseline may stand in for theirs."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache
from types import MappingProxyType

import regex


@dataclass(frozen=True)
class Language:
    """A language as the package knows it; scripts are ISO 15924 codes, the main one first."""

    code: str
    name: str
    scripts: tuple[str, ...]
    family: str | None  # code of the language whose baseline may stand in when this one has none


# code | name | scripts | family
_TABLE = """
en | English | Latn | -
es | Spanish | Latn | -
fr | French | Latn | -
ja | Japanese | Hani Hira Kana | -
ko | Korean | Hang | -
pt | Portuguese | Latn | es
th | Thai | Thai | -
vi | Vietnamese | Latn | -
zh | Chinese | Hani | -
ar | Arabic | Arab | -
ru | Russian | Cyrl | -
af | Afrikaans | Latn | nl
am | Amharic | Ethi | -
as | Assamese | Beng | bn
az | Azerbaijani | Latn | tr
ba | Bashkir | Cyrl | ru
be | Belarusian | Cyrl | ru
bg | Bulgarian | Cyrl | ru
bn | Bengali | Beng | -
bo | Tibetan | Tibt | -
bs | Bosnian | Latn | hr
ca | Catalan | Latn | es
ceb | Cebuano | Latn | tl
ckb | Central Kurdish | Arab | fa
cs | Czech | Latn | pl
cy | Welsh | Latn | en
da | Danish | Latn | de
de | German | Latn | en
dv | Dhivehi | Thaa | -
el | Greek | Grek | -
eo | Esperanto | Latn | es
et | Estonian | Latn | fi
eu | Basque | Latn | es
fa | Persian | Arab | ar
fi | Finnish | Latn | en
fo | Faroese | Latn | da
fy | Frisian | Latn | nl
ga | Irish | Latn | en
gd | Scottish Gaelic | Latn | en
gl | Galician | Latn | pt
gu | Gujarati | Gujr | hi
ha | Hausa | Latn | en
haw | Hawaiian | Latn | en
he | Hebrew | Hebr | ar
hi | Hindi | Deva | -
hr | Croatian | Latn | pl
ht | Haitian Creole | Latn | fr
hu | Hungarian | Latn | en
hy | Armenian | Armn | -
id | Indonesian | Latn | ms
ig | Igbo | Latn | en
is | Icelandic | Latn | da
it | Italian | Latn | es
jv | Javanese | Latn | id
ka | Georgian | Geor | -
kk | Kazakh | Cyrl | ru
km | Khmer | Khmr | th
kn | Kannada | Knda | te
ku | Kurdish | Latn | tr
ky | Kyrgyz | Cyrl | ru
la | Latin | Latn | it
lb | Luxembourgish | Latn | de
lo | Lao | Laoo | th
lt | Lithuanian | Latn | pl
lv | Latvian | Latn | lt
mg | Malagasy | Latn | fr
mi | Maori | Latn | en
mk | Macedonian | Cyrl | bg
ml | Malayalam | Mlym | ta
mn | Mongolian | Cyrl Mong | ru
mr | Marathi | Deva | hi
ms | Malay | Latn | id
mt | Maltese | Latn | it
my | Burmese | Mymr | th
ne | Nepali | Deva | hi
nl | Dutch | Latn | de
no | Norwegian | Latn | da
ny | Chichewa | Latn | sw
oc | Occitan | Latn | ca
or | Odia | Orya | bn
pa | Punjabi | Guru | hi
pl | Polish | Latn | en
ps | Pashto | Arab | fa
ro | Romanian | Latn | it
rw | Kinyarwanda | Latn | sw
sa | Sanskrit | Deva | hi
sd | Sindhi | Arab | ur
si | Sinhala | Sinh | -
sk | Slovak | Latn | cs
sl | Slovenian | Latn | hr
sm | Samoan | Latn | en
sn | Shona | Latn | sw
so | Somali | Latn | sw
sq | Albanian | Latn | en
sr | Serbian | Cyrl Latn | ru
st | Sotho | Latn | en
su | Sundanese | Latn | id
sv | Swedish | Latn | da
sw | Swahili | Latn | en
ta | Tamil | Taml | -
te | Telugu | Telu | -
tg | Tajik | Cyrl | ru
ti | Tigrinya | Ethi | am
tk | Turkmen | Latn | tr
tl | Tagalog | Latn | en
tr | Turkish | Latn | en
tt | Tatar | Cyrl | ru
ug | Uyghur | Arab | ar
uk | Ukrainian | Cyrl | ru
ur | Urdu | Arab | fa
uz | Uzbek | Latn Cyrl | tr
xh | Xhosa | Latn | zu
yi | Yiddish | Hebr | he
yo | Yoruba | Latn | en
yue | Cantonese | Hani | zh
zu | Zulu | Latn | en
"""

_ALIASES = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "nb": "no", "nn": "no", "zsm": "ms"}

# The values of Unicode's Script property, as ISO 15924 codes; Zyyy (Common) and Zinh (Inherited) are nobody's own.
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
_EXTRA_SCRIPT_COST = 0.05


def _parse_table() -> Mapping[str, Language]:
    languages = {}
    for line in _TABLE.strip().splitlines():
        code, name, scripts, family = (cell.strip() for cell in line.split("|"))
        languages[code] = Language(code, name, tuple(scripts.split()), None if family == "-" else family)
    return MappingProxyType(languages)


LANGUAGES: Mapping[str, Language] = _parse_table()


def get_language(code: str) -> Language:
    """The language of a code ('zh'), a regional tag ('zh-CN', 'zh_Hant', 'pt-BR') or an English name ('Chinese').

    Raises: ValueError, naming the nearest known code.
    """
    wanted = code.strip().lower()
    base = wanted.replace("_", "-").split("-")[0]
    base = _ALIASES.get(base, base)
    if base in LANGUAGES:
        return LANGUAGES[base]
    code_of_name = {language.name.lower(): language.code for language in LANGUAGES.values()}
    if wanted in code_of_name:
        return LANGUAGES[code_of_name[wanted]]
    known = {**{known_code: known_code for known_code in LANGUAGES}, **code_of_name}
    nearest = known[max(known, key=lambda key: SequenceMatcher(None, key, wanted).ratio())]
    raise ValueError(
        f"unknown language {code!r}; the nearest known code is {nearest!r} ({LANGUAGES[nearest].name}). "
        f"Use one of sae_posttrain.languages.LANGUAGES: {' '.join(LANGUAGES)}"
    )


def script_counts(text: str) -> dict[str, int]:
    """Letters of `text` (with their vowel signs and marks) by script; Common and Inherited are nobody's."""
    counts: dict[str, int] = {}
    for char, count in Counter(text).items():
        script = _letter_script(char)
        if script is not None:
            counts[script] = counts.get(script, 0) + count
    return counts


def identify_by_script(counts: Mapping[str, int | float], candidates: Sequence[str]) -> str | None:
    """The candidate whose scripts cover the most of `counts`, or None when script cannot tell.

    None means: nothing to count, no candidate covers half of it, or two candidates do equally well (en and fr). Each
    further script of a candidate costs a little, so Han alone is zh, and ja needs a real share of kana.
    """
    total = sum(counts.values())
    if total <= 0:
        return None
    scores: dict[str, float] = {}
    for code in candidates:
        scripts = get_language(code).scripts
        share = sum(counts.get(script, 0) for script in scripts) / total
        if share >= 0.5:
            scores[code] = share - _EXTRA_SCRIPT_COST * (len(scripts) - 1)
    if not scores:
        return None
    best = max(scores.values())
    winners = [code for code, score in scores.items() if best - score < 1e-9]
    return winners[0] if len(winners) == 1 else None


def token_script(raw: bytes) -> str | None:
    """The one script of a token's letters, from its bytes; None when it has none or mixes several.

    Byte-level BPE cuts inside characters. A cut-off start (b'\\xe4\\xbd') has the script of the characters it can
    become, when they are mostly letters of one script; a cut-off end says nothing and is passed over.
    """
    text, partial = _decode(raw)
    scripts = set(script_counts(text))
    if partial:
        script = _completion_script(partial)
        if script is None:
            return None
        scripts.add(script)
    return scripts.pop() if len(scripts) == 1 else None


def _decode(raw: bytes) -> tuple[str, bytes]:
    """The whole characters of `raw` and the cut-off character at its end."""
    decoder = getincrementaldecoder("utf-8")("ignore")
    return decoder.decode(raw), decoder.getstate()[0]


@lru_cache(maxsize=4096)
def _completion_script(prefix: bytes) -> str | None:
    """The script of most characters whose UTF-8 starts with `prefix`, if all their letters share it."""
    missing = _encoded_length(prefix[0]) - len(prefix)
    bits = int.from_bytes(prefix[:1], "big") & (0xFF >> (_encoded_length(prefix[0]) + 1))
    for byte in prefix[1:]:
        bits = bits << 6 | byte & 0x3F
    shortest = {2: 0x80, 3: 0x800, 4: 0x10000}[_encoded_length(prefix[0])]
    start, stop = max(bits << 6 * missing, shortest), min((bits + 1) << 6 * missing, 0x110000)
    found: Counter[str | None] = Counter()
    for point in range(start, stop):
        if not _UNASSIGNED.match(chr(point)):
            found[_letter_script(chr(point))] += 1
            if len(found.keys() - {None}) > 1:
                return None
    script, count = found.most_common(1)[0] if found else (None, 0)
    return script if 2 * count > found.total() else None


def _encoded_length(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


# Inherited marks go with any script, so that they are no evidence against one either.
_UNASSIGNED = regex.compile(r"[\p{Cn}\p{Cs}\p{Co}\p{Script=Zinh}]")


@lru_cache(maxsize=1 << 16)
def _letter_script(char: str) -> str | None:
    """The script of a letter or mark; None for Common, Inherited and whatever is no letter."""
    match = _script_pattern().match(char)
    return match.lastgroup if match else None


@cache
def _script_pattern() -> regex.Pattern[str]:
    """One letter, in the group named after its script; scripts newer than the installed `regex` are left out."""
    groups = []
    for script in SCRIPTS:
        if script not in _SHARED_SCRIPTS:
            try:
                regex.compile(rf"\p{{Script={script}}}")
            except regex.error:
                continue
            groups.append(rf"(?P<{script}>\p{{Script={script}}})")
    return regex.compile(rf"(?=[\p{{L}}\p{{M}}\p{{Nl}}])(?:{'|'.join(groups)})")
