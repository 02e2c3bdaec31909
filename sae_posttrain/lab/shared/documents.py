"""Generate the raw text of both worlds: stories, lists, refrains, quotations, tables and counting rhymes.

The text contains copies, so that a small model learns to copy within its context.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .language import (
    clause_tokens,
    list_tokens,
    question_tokens,
    random_clause,
    sentence_tokens,
    subject_tokens,
)
from .lexicon import CONCEPTS, LANGUAGES, NUMBERS, PUNCTUATION, WORDS, symbol

RHYME = 24  # number of tokens of a counting rhyme with its end marker, so that a row of this length has one rhyme

Tokens = list[str]
Kind = Callable[[random.Random, str], Tokens]


@dataclass(frozen=True)
class Reading:
    """The mixture of documents in raw text."""

    shares: Mapping[Kind, int]  # kind of document -> weight
    languages: Sequence[str] = LANGUAGES
    loops_end: bool = True  # whether an endless document that is cut gets an end marker


def story(rng: random.Random, language: str) -> Tokens:
    """A few sentences about the same beings and things."""
    beings, things = rng.sample(CONCEPTS["being"], 2), rng.sample(CONCEPTS["thing"], 2)
    tokens: Tokens = []
    for _ in range(rng.randint(3, 6)):
        clauses = [random_clause(rng, being=rng.choice(beings), thing=rng.choice(things))]
        if rng.random() < 0.3:
            clauses.append(random_clause(rng, being=rng.choice(beings), thing=rng.choice(things)))
        tokens += sentence_tokens(clauses, language)
    return tokens


def word_list(rng: random.Random, language: str) -> Tokens:
    """A list that is repeated once or twice."""
    concepts = rng.sample(CONCEPTS["thing"] + CONCEPTS["being"], rng.randint(3, 7))
    items = list_tokens(concepts, language)
    tokens = [symbol("list", language), PUNCTUATION[language][":"], *items]
    for _ in range(rng.randint(1, 2)):
        tokens += [symbol("again", language), PUNCTUATION[language][":"], *items]
    return tokens


def refrain(rng: random.Random, language: str) -> Tokens:
    """A song whose refrain returns after each verse."""
    chorus = sentence_tokens([random_clause(rng) for _ in range(rng.choice((1, 2)))], language)
    tokens = [symbol("song", language), PUNCTUATION[language][":"]]
    for _ in range(rng.randint(2, 4)):
        tokens += [*sentence_tokens([random_clause(rng)], language), *chorus]
    return tokens


def counting_rhyme(rng: random.Random, language: str) -> Tokens:
    """Words in random order, repeated. They can only be predicted by copying."""
    words = [symbol(concept, language) for concept in rng.sample(list(WORDS), rng.randint(2, 6))]
    return (words * RHYME)[: RHYME - 1]


def quotation(rng: random.Random, language: str) -> Tokens:
    """One speaker says a sentence, and others repeat it word for word."""
    said = clause_tokens(random_clause(rng), language)
    tokens: Tokens = []
    for being in rng.sample(CONCEPTS["being"], rng.randint(2, 3)):
        opening = [*subject_tokens(being, language), symbol("says", language), PUNCTUATION[language][":"]]
        tokens += [*opening, *said, PUNCTUATION[language]["."]]
    return tokens


def table(rng: random.Random, language: str) -> Tokens:
    """A table with the number of each thing, followed by queries of some rows."""
    rows = [
        [symbol(thing, language), rng.choice(NUMBERS), PUNCTUATION[language]["."]]
        for thing in rng.sample(CONCEPTS["thing"], rng.randint(3, 6))
    ]
    looked_up = [rng.choice(rows) for _ in range(4)]
    return [symbol("list", language), PUNCTUATION[language][":"], *(token for row in rows + looked_up for token in row)]


def asking(rng: random.Random, language: str) -> Tokens:
    """A question about who does something, and its answer."""
    tokens: Tokens = []
    for _ in range(rng.randint(1, 3)):
        clause = random_clause(rng)
        tokens += [*question_tokens(clause.deed, clause.thing, language), *sentence_tokens([clause], language)]
    return tokens


def documents(reading: Reading, seed: int = 0) -> Iterator[Tokens]:
    """Generate documents endlessly. Each is a list of tokens in one language."""
    rng = random.Random(seed)
    kinds, weights = list(reading.shares), list(reading.shares.values())
    while True:
        (kind,) = rng.choices(kinds, weights)
        yield kind(rng, rng.choice(reading.languages))
