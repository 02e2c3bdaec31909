"""Other codes and names of the languages in our table, and codes and names of languages that are not in it."""

# Our code, then other codes: ISO 639-3, ISO 639-2/B, retired codes, and the code of a macrolanguage's standard form.
CODES = """
af afr | am amh | ar ara arb | as asm | az aze azj | ba bak | be bel | bg bul | bn ben | bo bod tib | bs bos | ca cat
cs ces cze | cy cym wel | da dan | de deu ger | dv div | el ell gre | en eng | eo epo | es spa | et est ekk
eu eus baq | fa fas per pes prs | fi fin | fo fao | fr fra fre | fy fry | ga gle | gd gla | gl glg | gu guj | ha hau
he heb iw | hi hin | hr hrv scr | ht hat | hu hun | hy hye arm | id ind in | ig ibo | is isl ice | it ita | ja jpn
jv jav jw | ka kat geo | kk kaz | km khm | kn kan | ko kor | ku kur kmr | ky kir | la lat | lb ltz | li lim | ln lin
lo lao | lt lit | lv lav lvs | mg mlg plt | mi mri mao | mk mkd mac | ml mal | mn mon khk mvf | mr mar
ms msa may zsm zlm | mt mlt | my mya bur | ne nep npi | nl nld dut | no nor nb nn nob nno | ny nya | oc oci | or ori ory
pa pan | pl pol | ps pus pbt pbu pst | pt por | ro ron rum mo mol | ru rus | rw kin | sa san | sc srd src sro | sd snd
si sin | sk slk slo | sl slv | sm smo | sn sna | so som | sq sqi alb als | sr srp scc | st sot | su sun | sv swe
sw swa swh | ta tam | te tel | tg tgk | th tha | ti tir | tk tuk | tl tgl | tr tur | tt tat | ug uig | uk ukr | ur urd
uz uzb uzn | vi vie | xh xho | yi yid ydd ji | yo yor | zh zho chi cmn | zu zul | apc ajp
"""

# Our code: other English names, from ISO 639-3, FLORES, Whisper and everyday use.
NAMES = """
ace: achinese | apc: north levantine arabic, south levantine arabic
ar: standard arabic, modern standard arabic, literary arabic | az: north azerbaijani, azeri
bo: lhasa tibetan, standard tibetan | ca: valencian | ckb: sorani | ckb: sorani kurdish | de: standard german
dv: divehi, maldivian | el: modern greek, greek modern 1453, modern greek 1453 | bn: bangla
en: american english, british english
es: castilian, castilian spanish, mexican spanish, latin american spanish, european spanish | et: standard estonian
fa: farsi, western persian, iranian persian, dari | fr: canadian french | fy: western frisian, west frisian
ga: irish gaelic | he: modern hebrew | ht: haitian | ja: nihongo | km: central khmer | ky: kirghiz
knc: central kanuri | ku: northern kurdish, kurmanji, kurmanji kurdish | lb: letzeburgesch | li: limburgan, limburgian
lv: standard latvian | mg: plateau malagasy | mn: halh mongolian | ms: standard malay, bahasa melayu
my: myanmar, myanmar burmese | ne: nepali individual language, nepali macrolanguage
ms: malay macrolanguage | sw: swahili macrolanguage | or: oriya macrolanguage
nl: flemish, dutch flemish | no: bokmål, bokmal, nynorsk | id: bahasa indonesia
no: norwegian bokmål, norwegian bokmal, norwegian nynorsk | ny: nyanja, chewa, chichewa chewa nyanja
oc: occitan post 1500 | or: oriya, odia oriya | pa: panjabi, eastern panjabi, eastern punjabi
ps: pushto, southern pashto, northern pashto | pt: brazilian portuguese, european portuguese | ro: moldavian, moldovan
si: sinhalese, sinhala sinhalese | st: southern sotho, sesotho | sq: tosk albanian
sw: swahili individual language, kiswahili | ug: uighur | uz: northern uzbek | war: waray philippines
xh: isixhosa | yi: eastern yiddish | yue: yue chinese, cantonese chinese, chinese cantonese
zh: mandarin, mandarin chinese, simplified chinese, traditional chinese, standard chinese, chinese mandarin
zh: simplified mandarin, traditional mandarin | zu: isizulu | yue: traditional cantonese
"""

# Languages that are not in our table. The error message names them, so that they are not confused with one that is.
ABSENT = """
aa aar Afar, ab abk Abkhazian, ak aka Akan, an arg Aragonese, av ava Avaric, ay aym Aymara, bm bam Bambara
bi bis Bislama, br bre Breton, ch cha Chamorro, ce che Chechen, cu chu Church Slavic, cv chv Chuvash, kw cor Cornish
co cos Corsican, cr cre Cree, dz dzo Dzongkha, ee ewe Ewe, fj fij Fijian, ff ful Fulah, gv glv Manx, gn grn Guarani
sh hbs Serbo-Croatian, hz her Herero, ho hmo Hiri Motu, io ido Ido, ii iii Sichuan Yi, iu iku Inuktitut
ie ile Interlingue, ia ina Interlingua, ik ipk Inupiaq, kl kal Kalaallisut, ks kas Kashmiri, ki kik Kikuyu, kv kom Komi
kg kon Kongo, kj kua Kuanyama, lu lub Luba-Katanga, lg lug Ganda, mh mah Marshallese, na nau Nauru, nv nav Navajo
nr nbl South Ndebele, nd nde North Ndebele, ng ndo Ndonga, oj oji Ojibwa, om orm Oromo, os oss Ossetian, pi pli Pali
qu que Quechua, rm roh Romansh, rn run Rundi, sg sag Sango, se sme Northern Sami, ss ssw Swati, ty tah Tahitian
to ton Tonga, tn tsn Tswana, ts tso Tsonga, tw twi Twi, ve ven Venda, vo vol Volapük, wa wln Walloon, wo wol Wolof
za zha Zhuang, acm Mesopotamian Arabic, apd Sudanese Arabic, afb Gulf Arabic, arq Algerian Arabic, ayl Libyan Arabic
ast Asturian, awa Awadhi, ayr Central Aymara, azb South Azerbaijani, ban Balinese, bar Bavarian, bem Bemba
bug Buginese, cjk Chokwe, crh Crimean Tatar, dik Southwestern Dinka, dyu Dyula, fon Fon, fuv Nigerian Fulfulde
gaz West Central Oromo, gsw Swiss German, hak Hakka Chinese, hsb Upper Sorbian, dsb Lower Sorbian, ilo Iloko
kab Kabyle, kac Kachin, kam Kamba, kbp Kabiyè, kmb Kimbundu, kok Konkani, lmn Lambadi, ltg Latgalian, lua Luba-Lulua
luo Luo, lus Mizo, lzh Literary Chinese, mni Manipuri, mos Mossi, nan Min Nan Chinese, nds Low German, nso Pedi
pcm Nigerian Pidgin, pnb Western Panjabi, quy Ayacucho Quechua, rom Romany, sco Scots, sdh Southern Kurdish, shn Shan
taq Tamasheq, tum Tumbuka, tzm Central Atlas Tamazight, umb Umbundu, wuu Wu Chinese, gan Gan Chinese, aln Gheg Albanian
uzs Southern Uzbek, grc Ancient Greek, ang Old English, lad Ladino, lld Ladin, tet Tetum, sah Yakut, tyv Tuvinian
"""
ABSENT_NAMES = (  # other names of absent languages, and names of language groups
    "Sorbian, Sami, Romani, Hakka, Hokkien, Shanghainese, Teochew, Taiwanese, Sudanese, Luganda, Kirundi, Sepedi, "
    "Northern Sotho, Setswana, Twi, Kikongo, Bihari, Berber, Tamazight, Mongo, Mongol, "
    "Prussian, Bangala, Mandar, Mandari, Malayo, Benga, Odiai, Darai, Kodia, Magori, Waray Australia"
)

# Codes whose error message needs an explanation.
SPECIAL = {
    **dict.fromkeys(("kr", "kau"), "it means Kanuri, which is 'knc' here; Korean is 'ko'"),
    "mis": "it means a language without a code",
    "mul": "it means several languages; give each text the one that it is in",
    "und": "it means a language that was not determined; leave the value empty where the language is not known",
    "zxx": "it means no language; leave the value empty",
}

# Codes of ISO 15924 that are not Unicode scripts: variants and combinations of scripts. "Jpan" and "Kore" are the usual
# scripts of Japanese and Korean, so they add nothing to the language.
WRITTEN: dict[str, tuple[str, ...]] = {
    **{"Hans": ("Hani",), "Hant": ("Hani",), "Hanb": ("Hani", "Bopo"), "Hrkt": ("Hira", "Kana"), "Jamo": ("Hang",)},
    **{"Aran": ("Arab",), "Cyrs": ("Cyrl",), "Latf": ("Latn",), "Latg": ("Latn",), "Geok": ("Geor",)},
    **{"Syre": ("Syrc",), "Syrj": ("Syrc",), "Syrn": ("Syrc",)},
    **dict.fromkeys(("Jpan", "Kore", "Zyyy", "Zinh", "Zzzz"), ()),
}
SCRIPT_NAMES = {
    **{"chs": "Hans", "cht": "Hant"},  # zh-CHS and zh-CHT are old tags of Windows
    **{"arabic": "Arab", "cyrillic": "Cyrl", "devanagari": "Deva", "gurmukhi": "Guru", "latin": "Latn"},
    **{"simplified": "Hans", "traditional": "Hant", "han": "Hani", "hangul": "Hang", "mongolian": "Mong"},
}
_REGIONS = """
us, usa, united states, uk, united kingdom, great britain, australia, canada, india, ireland, new zealand, south africa
brazil, portugal, spain, mexico, latin america, argentina, chile, colombia, peru, france, belgium, switzerland, germany
austria, italy, netherlands, china, mainland china, prc, taiwan, hong kong, singapore, macau, macao, japan, korea
south korea, russia, ukraine, iran, turkey, vietnam, thailand, indonesia, pakistan, bangladesh, egypt, saudi arabia
poland, sweden, finland
"""
REGIONS = frozenset(region for line in _REGIONS.strip().splitlines() for region in line.split(", "))
# Regions and variants do not change the language. Any other word after it may change it (War-Jaintia, zh-classical).
NARROWING = """
usa gbr can aus ind bra prt esp mex arg fra bel che deu aut ita nld chn twn hkg sgp mac jpn kor rus ukr irn tur vnm tha
idn pak bgd egy sau pol swe fin nor dnk grc cze rou hun isr valencia tarask rozaj polyton monoton fonipa ekavsk ijekavsk
arevela arevmda oxendict scotland pinyin wadegile hepburn euro
"""
_EXTENDED = """
acm acq aeb afb ajp apc apd arb arq ars ary arz ayl cmn gan hak ltg lvs lzh nan swh uzn uzs wuu yue zsm
"""
EXTENDED = frozenset(_EXTENDED.split())
# Country codes that are not language codes, for countries with one obvious language.
COUNTRIES = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "ua": "uk", "vn": "vi"}
