"""The miniature language: clauses with a meaning, and their sentences in English, Chinese, Russian and Korean."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .lexicon import CONCEPTS, LANGUAGES, PARTICLES, PUNCTUATION, symbol

# concept -> the foreign language of its word; concepts that are not in it use the sentence's own language
Strays = Mapping[str, str]
HOME: Strays = {}


@dataclass(frozen=True)
class Clause:
    """The meaning of a clause: who does what to which thing, and optionally where and when."""

    being: str
    deed: str
    thing: str
    quality: str | None = None
    place: str | None = None
    time: str | None = None

    def concepts(self) -> list[str]:
        """The concepts in the clause."""
        named = [self.being, self.deed, self.thing, self.quality, self.place, self.time]
        return [concept for concept in named if concept]


def random_clause(rng: random.Random, *, being: str | None = None, thing: str | None = None) -> Clause:
    """A random clause about the given being and thing, or about random ones."""
    return Clause(
        being=being or rng.choice(CONCEPTS["being"]),
        deed=rng.choice(CONCEPTS["deed"]),
        thing=thing or rng.choice(CONCEPTS["thing"]),
        quality=rng.choice(CONCEPTS["quality"]) if rng.random() < 0.3 else None,
        place=rng.choice(CONCEPTS["place"]) if rng.random() < 0.3 else None,
        time=rng.choice(CONCEPTS["time"]) if rng.random() < 0.3 else None,
    )


def clause_tokens(clause: Clause, language: str, strays: Strays = HOME) -> list[str]:
    """The clause's tokens in the word order of the language, without a full stop.

    Raises: ValueError: the lab does not have this language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"The lab has the languages {', '.join(LANGUAGES)}, not {language!r}.")

    def say(concept: str | None) -> list[str]:
        return [symbol(concept, strays.get(concept, language))] if concept else []

    subject, deed, thing = subject_tokens(clause.being, language, strays), say(clause.deed), say(clause.thing)
    quality, place, time = say(clause.quality), say(clause.place), say(clause.time)
    if language == "en":
        where = [" in", " the", *place] if place else []
        return [*subject, *deed, " the", *quality, *thing, *where, *time]
    if language == "zh":
        where = ["在", *place] if place else []
        return [*subject, *time, *where, *deed, *quality, *thing]
    if language == "ru":
        where = [" в", *place] if place else []
        return [*time, *subject, *deed, *quality, *thing, *where]
    where = [*place, particle("place", place[0])] if place else []
    return [*subject, *time, *where, *quality, *thing, particle("object", thing[0]), *deed]


def subject_tokens(being: str, language: str, strays: Strays = HOME) -> list[str]:
    """The subject, with its article or particle. The "who" of a question has neither."""
    word = symbol(being, strays.get(being, language))
    if being == "who" or language in ("zh", "ru"):
        return [word]
    return [" the", word] if language == "en" else [word, particle("topic", word)]


def sentence_tokens(clauses: Sequence[Clause], language: str, strays: Strays = HOME) -> list[str]:
    """A sentence of one or more clauses, joined by "then"."""
    tokens = clause_tokens(clauses[0], language, strays)
    for clause in clauses[1:]:
        tokens += [PUNCTUATION[language][","], symbol("then", language), *clause_tokens(clause, language, strays)]
    return [*tokens, PUNCTUATION[language]["."]]


def question_tokens(deed: str, thing: str, language: str) -> list[str]:
    """A question: who does this to the thing?"""
    return [*clause_tokens(Clause("who", deed, thing), language), PUNCTUATION[language]["?"]]


def list_tokens(concepts: Sequence[str], language: str, strays: Strays = HOME) -> list[str]:
    """A list with commas and a full stop."""
    words = [symbol(concept, strays.get(concept, language)) for concept in concepts]
    marks = [PUNCTUATION[language][","]] * (len(words) - 1) + [PUNCTUATION[language]["."]]
    return [token for pair in zip(words, marks, strict=True) for token in pair]


def particle(role: str, word: str) -> str:
    """The Korean particle after a word. Its form depends on the word's last sound."""
    after_consonant, after_vowel = PARTICLES[role]
    is_syllable = "가" <= word[-1] <= "힣"
    # A Hangul syllable has no final consonant exactly if its code point is a multiple of 28 above that of 가.
    return after_consonant if is_syllable and (ord(word[-1]) - ord("가")) % 28 else after_vowel


def written(tokens: list[str]) -> str:
    """Join tokens to readable text."""
    return "".join(tokens).strip()


def parallel_sentences(count: int, seed: int = 0) -> dict[str, list[str]]:
    """Sentences with the same `count` meanings in every language of the lab."""
    rng = random.Random(seed)
    meanings = [[random_clause(rng) for _ in range(rng.choice((1, 1, 2)))] for _ in range(count)]
    return {lang: [written(sentence_tokens(meaning, lang)) for meaning in meanings] for lang in LANGUAGES}
