"""Phrases in another language of the same writing, with hand-made scores and with py3langid's."""

from __future__ import annotations

from typing import Any

import pytest

from sae_posttrain.metrics import PhraseFinder, code_switching_rate

WORDS = {"en": "the cat sees a small house and sings", "fr": "le chat voit une petite maison puis chante"}


def scorer(word: Any) -> Any:
    """6 nats for whichever language knows the word; names are known to none."""
    return {code: 6.0 * (word.strip().casefold() in known.split()) for code, known in WORDS.items()}


FINDER = PhraseFinder(["en", "fr"], scorer=scorer)


def phrases(response: Any, language: Any = "en", finder: Any = FINDER, **options: Any) -> Any:
    return [(span.text, span.language) for span in finder.find(response, language, **options)]


@pytest.mark.parametrize(
    ("language", "response", "found"),
    [
        ("en", "The cat sees, le chat voit une petite maison, and sings.", [("le chat voit une petite maison", "fr")]),
        ("fr", "Le chat voit: the cat sees a small house. Puis chante.", [("the cat sees a small house", "en")]),
        ("en", "le chat voit une maison", [("le chat voit une maison", "fr")]),
        ("en", "the cat sees le chat voit and sings", []),
        ("en", "le chat the voit cat une a petite small", []),
        ("en", "le chat XLNet voit une petite", [("le chat XLNet voit une petite", "fr")]),
        ("en", "Le Chat Voit Une Petite Maison", []),
        (
            "en",
            "le chat voit une. The cat sees a house. Une petite maison puis chante",
            [("le chat voit une", "fr"), ("Une petite maison puis chante", "fr")],
        ),
        ("en", "", []),
        ("de", "le chat", []),
        ("zh", "猫 the cat sees a small house 猫", [("the cat sees a small house", "en")]),
    ],
)
def test_phrases_are_found_whole_and_names_hardly_count(language: Any, response: Any, found: Any) -> None:
    finder = FINDER if language in WORDS else PhraseFinder(["en", "fr"], scorer=lambda w: {**scorer(w), language: 0.0})
    assert phrases(response, language, finder) == found


def test_spans_hold_their_place() -> None:
    response = "The cat — «le chat voit une petite maison» — sings."
    (span,) = FINDER.find(response, "en")
    assert response[span.start : span.end] == span.text == "le chat voit une petite maison"
    assert (span.script, span.language) == ("Latn", "fr")


def test_code_addresses_allowed_terms_and_quotations_have_no_vote() -> None:
    assert phrases("See `le chat voit une petite maison` and sing") == []
    assert phrases("le chat voit une maison", allowed=["chat voit"]) == []
    assert phrases("le chat voit une petite maison", prompt="What does « Le chat voit » mean in une maison?") == []
    assert phrases("le chat voit une petite maison puis chante", prompt="le?") != []


def test_what_a_phrase_has_at_least_can_be_set() -> None:
    response = "the cat sees le chat voit une house"
    assert phrases(response) == [("le chat voit une", "fr")]
    assert phrases(response, finder=PhraseFinder(["fr"], scorer=scorer, min_words=5)) == []
    assert phrases(response, finder=PhraseFinder(["fr"], scorer=scorer, min_evidence=25)) == []
    assert phrases("sees le chat and", finder=PhraseFinder(["fr"], scorer=scorer, min_words=2, min_evidence=10)) == [
        ("le chat", "fr")
    ]


def test_only_what_the_writing_leaves_open_is_looked_for() -> None:
    finder = PhraseFinder(["zh", "ru", "uk", "en"], scorer=scorer)
    assert finder.others("en") == ()
    assert finder.others("uk") == ("en", "ru")


def test_each_word_is_scored_once() -> None:
    asked = []
    finder = PhraseFinder(["fr"], scorer=lambda word: asked.append(word) or scorer(word))
    for _ in range(3):
        finder.find("le chat le chat the cat", "en")
    assert sorted(asked) == [" cat ", " chat ", " le ", " the "]


def test_a_scorer_without_the_language_is_named() -> None:
    with pytest.raises(ValueError, match=r"the scorer returned \['en', 'fr'\], but no score for 'it'"):
        phrases("uno due tre quattro cinque", "it")


def test_phrases_count_as_switches() -> None:
    responses = ["the cat sees, le chat voit une petite maison", "the cat sees", "le chat voit 猫", "the cat 猫"]
    languages = ["en", "en", "fr", "en"]
    report = code_switching_rate(responses, languages, phrases=FINDER)
    assert {pair: rate.hits for pair, rate in report.pairs.items()} == {
        ("en", "fr"): 1,
        ("en", "Hani"): 1,
        ("fr", "Hani"): 1,
    }
    assert [(pair["script"], pair["into"]) for pair in report.to_dict()["pairs"]] == [
        ("Hani", "Hani"),
        ("Latn", "fr"),
        ("Hani", "Hani"),
    ]
    into_french = code_switching_rate(responses, languages, to="fr", phrases=FINDER)
    assert (into_french.overall.hits, into_french.overall.total, into_french.skipped) == (1, 3, 1)
    assert {pair: rate.hits for pair, rate in into_french.pairs.items()} == {("en", "fr"): 1}
    with pytest.raises(ValueError, match="nothing to measure"):
        code_switching_rate(responses, languages, to="fr")


def test_with_py3langid_a_clause_is_found_in_real_text() -> None:
    pytest.importorskip("py3langid")
    response = (
        "You can declare the type of a parameter, et ensuite vous pouvez utiliser cette valeur dans votre fonction, "
        "and the editor will offer completion for it everywhere."
    )
    (span,) = PhraseFinder().find(response, "en")
    assert span.language == "fr"
    assert "ensuite vous pouvez utiliser cette valeur dans votre fonction" in span.text
    assert PhraseFinder().find(response.replace(span.text, "and then"), "en") == []
