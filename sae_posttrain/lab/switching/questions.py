"""Generate prompts and answers, each in one language. Like scraped data, some answers have stray foreign words."""

import random
from collections.abc import Sequence
from typing import Any

from ..shared.language import HOME, Strays, list_tokens, question_tokens, random_clause, sentence_tokens, written
from ..shared.lexicon import CONCEPTS, LANGUAGES, PUNCTUATION, symbol

# Stray words are not uniform. Some goods have a foreign name, and writers of some languages use it half of the time.
# Elsewhere a stray word can be any word in any language.
GOODS = {"computer": "zh", "film": "ru", "phone": "ko", "coffee": "en"}
WRITERS = ("doctor", "teacher")
HABIT = 0.5
NOISE = 0.05


def questions(
    count: int, seed: int = 0, *, noise: float = NOISE, languages: Sequence[str] = LANGUAGES
) -> list[dict[str, Any]]:
    """Make `count` rows with `prompt` and `completion` as messages (TRL's format), `language` and `stray`.

    `noise` is the share of answers with a random foreign word. About as many further answers have the foreign name of a
    good. With 0 there are no foreign words.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        language = rng.choice(languages)
        prompt, answer, stray = exchange(rng, language, noise)
        rows.append(
            {
                "prompt": [{"role": "user", "content": written(prompt)}],
                "completion": [{"role": "assistant", "content": written(answer)}],
                "language": language,
                "stray": stray,
            }
        )
    return rows


def exchange(rng: random.Random, language: str, noise: float) -> tuple[list[str], list[str], bool]:
    """The tokens of a prompt and of its answer, and whether the answer has a foreign word."""
    kind = rng.choice(("who", "story", "story", "list"))
    colon, comma = PUNCTUATION[language][":"], PUNCTUATION[language][","]
    if kind == "list":
        concepts = rng.sample(CONCEPTS["thing"], rng.randint(3, 5))
        strays = _strays(rng, concepts, language, noise)
        return (
            [symbol("list", language), PUNCTUATION[language]["."]],
            list_tokens(concepts, language, strays),
            bool(strays),
        )
    clauses = [random_clause(rng)]
    clauses += [random_clause(rng, being=clauses[0].being) for _ in range(rng.randint(0, 2))]
    strays = _strays(rng, [concept for clause in clauses for concept in clause.concepts()], language, noise)
    if kind == "who":
        prompt = question_tokens(clauses[0].deed, clauses[0].thing, language)
    else:
        subject = [symbol(clauses[0].being, language), comma, symbol(clauses[0].thing, language)]
        prompt = [symbol("story", language), colon, *subject, PUNCTUATION[language]["."]]
    answer = [token for clause in clauses for token in sentence_tokens([clause], language, strays)]
    return prompt, answer, bool(strays)


def _strays(rng: random.Random, concepts: Sequence[str], language: str, noise: float) -> Strays:
    """The concepts of an answer that are in a foreign language, with that language. Mostly there are none."""
    goods = {concept: GOODS[concept] for concept in concepts if GOODS.get(concept, language) != language}
    if noise and goods and concepts[0] in WRITERS and rng.random() < HABIT:
        return goods
    if rng.random() >= noise:
        return HOME
    return {rng.choice(concepts): rng.choice([other for other in LANGUAGES if other != language])}
