"""Generate the raw text of the switching world: the shared kinds, questions with stray words, word pairs and loops.

A small share of documents ends in a loop, as some web pages do, so that sampled answers loop rarely.
"""

import random

from ..shared.documents import (
    Reading,
    Tokens,
    asking,
    counting_rhyme,
    quotation,
    refrain,
    story,
    table,
    word_list,
)
from ..shared.language import written
from ..shared.lexicon import ASSISTANT, END, LANGUAGES, PUNCTUATION, USER, WORDS, symbol
from .questions import NOISE, exchange


def thread(rng: random.Random, language: str) -> Tokens:
    """A question and its answer as in a forum, with stray foreign words."""
    prompt, answer, _ = exchange(rng, language, NOISE)
    return [USER, *prompt, END, ASSISTANT, *answer]


def dictionary(rng: random.Random, language: str) -> Tokens:
    """Words next to their translation. These are the only documents that mix languages on purpose."""
    other = rng.choice([lang for lang in LANGUAGES if lang != language])
    tokens: Tokens = []
    for concept in rng.sample(list(WORDS), rng.randint(4, 8)):
        tokens += [symbol(concept, language), PUNCTUATION[language][":"], symbol(concept, other)]
        tokens += [PUNCTUATION[language]["."]]
    return tokens


def loop(rng: random.Random, language: str) -> Tokens:
    """A story that ends in a loop: its last 2 to 16 tokens repeat many times."""
    tokens = story(rng, language)
    tokens = tokens[: rng.randint(16, 40)]
    return tokens + tokens[-rng.randint(2, min(16, len(tokens))) :] * 64


WORLD = Reading(
    {
        story: 23,
        asking: 4,
        thread: 20,
        word_list: 10,
        refrain: 10,
        quotation: 10,
        table: 5,
        counting_rhyme: 12,
        dictionary: 3,
        loop: 3,
    }
)
# The first stage of training, which teaches copying. In mixed text alone this takes many times longer.
NURSERY = Reading({counting_rhyme: 1})


def monolingual_texts(count: int, seed: int = 0) -> dict[str, list[str]]:
    """Stories by language, in the form that discovery needs: `count` texts in each language."""
    rng = random.Random(seed)
    return {language: [written(story(rng, language)) for _ in range(count)] for language in LANGUAGES}
