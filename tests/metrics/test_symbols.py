"""Letters of other scripts that are no words, each beside a word that is one."""

import pytest

from sae_posttrain.metrics import unexpected_spans


def words(response: str, language: str = "en", **options: bool) -> list[str]:
    return [span.text for span in unexpected_spans(response, language, **options)]


@pytest.mark.parametrize(
    "response",
    [
        "The angle is Δφ, the torque 2πσ, and αβ or γδ cells bind.",
        "ΔG = ΔH − TΔS, ΔΔG, ΔxΔp ≥ ħ/2, φψ angles, Σαβ, R μνρσ",
        "An ε-δ proof, a ΔΣ converter, π-π stacking, the triangle ΑΒΓ, αβγδ",
        "The components g_{μν} and Γ^λ_μν and Ω, µ, χ².",
        "[βaθ] is what /ˈθɪŋk/ begins with",
    ],
)
def test_greek_notation(response: str) -> None:
    assert words(response) == []


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("he said λόγος", ["λόγος"]),
        ("το σπίτι is a house", ["το", "σπίτι"]),
        ("και is and", ["και"]),
        ("in ΑΘΗΝΑ now", ["ΑΘΗΝΑ"]),
        ("in Ελλαδα now", ["Ελλαδα"]),
        ("the word καλημέρα, Δφ", ["καλημέρα"]),
    ],
)
def test_greek_words(response: str, found: list[str]) -> None:
    assert words(response) == found


@pytest.mark.parametrize(
    "response",
    [
        r"Nobody knows ¯\_(ツ)_/¯",
        r"\(ツ)/ fine",
        "Seriously? ಠ_ಠ",
        "walks ᕕ( ᐛ )ᕗ away",
        "weeps (ㄒoㄒ) and (っ˘̩╭╮˘̩)っ",
        "Good work (っ◔◡◔)っ and bye",
        "(づ｡◕‿‿◕｡)づ",
        "(ノಠ益ಠ)ノ彡┻━┻",
        "ヽ(´▽`)/ hi",
        "(•̀ᴗ•́)و ok",
        "ლ(ಠ益ಠლ)",
        "щ（゜ロ゜щ）",
        "༼ つ ◕_◕ ༽つ",
        "Σ(ﾟДﾟ)",
        "(｀Д´)",
        "눈_눈 and ㅠ_ㅠ",
        "(^ム^)",
        "(・へ・) ヾ(＾∇＾)",
        "(つω`｡)",
        "so ツ it is",
        "so (ツ) it is",
    ],
)
def test_faces(response: str) -> None:
    assert words(response) == []


@pytest.mark.parametrize(
    "response",
    [
        "Let Ш denote the group, and Ж(x) the set.",
        "א₀ is aleph; the letter ع, ლ or ก alone",
        "⠋ Installing packages… ⠙ done ⣾⣽⣻",
        "It costs ৳500 or ៛4000, ฿10, ﷼20.",
        "The signs ﷺ, ॐ, ௐ, 卍 and 〇.",
        "The tank holds 5 ㌔, ㌘ and ㍿.",
    ],
)
def test_signs_and_single_letters(response: str) -> None:
    assert words(response) == []


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("so и then", ["и"]),
        ("Я думаю so", ["Я", "думаю"]),
        ("Он в Москве now", ["Он", "в", "Москве"]),
        ("quarterly totals转", ["转"]),
        ("the の thing and 한", ["の", "한"]),
        ("arbeidsmiljøretसंज्ञा", ["संज्ञा"]),
        ("totalsน", ["น"]),
        ("**и** (_да_) (あ)", ["и", "да", "あ"]),
        ("the السلام word", ["السلام"]),
        ("⼈ is a radical", ["⼈"]),
    ],
)
def test_words_of_one_letter_and_letters_among_marks(response: str, found: list[str]) -> None:
    assert words(response) == found


def test_bopomofo_is_chinese_and_phonetic_letters_are_no_words() -> None:
    assert words("「你」的注音是ㄋㄧˇ。", "zh") == []
    assert words("ㄋㄧˇ", "ja") == ["ㄋㄧˇ"]
    assert words("音标是 [ˈmɔskvə]，GPU", "zh", count_latin=True) == ["GPU"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["Δφ ", "Ш ", "(ツ", "¯(ಠ", "の", "ಠ_", "ΔφΔ", "の("])
def test_time_is_linear(unit: str) -> None:
    unexpected_spans("и " + unit * (100_000 // len(unit)), "en", ignore_glosses=True)
