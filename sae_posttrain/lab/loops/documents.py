"""Raw text in which phrases repeat once or twice, and rarely endlessly; and prompts that request a story.

All text is in one language. With four languages, the loop rate of a small model depends too much on which of them it
learned best.
"""

import random
from typing import Any

from ..shared.documents import Reading, Tokens, quotation, refrain, word_list
from ..shared.language import random_clause, sentence_tokens, written
from ..shared.lexicon import ASSISTANT, END, PUNCTUATION, USER, WORDS, symbol

LANGUAGE = "en"
PATTERN = 48  # number of tokens of a row with one pattern
ENDLESS = 64  # number of periods of an endless loop, which is longer than any row

# Phrases that people repeat. Each can be followed by itself.
PHRASES = (("and", "then"), ("again", "and", "again", "then"), ("always", "often", "today"), ("says", "and", "who"))
SAID = 0.7  # share of stories with one of these phrases
SAID_TWICE = 0.2  # share of these stories in which it occurs twice
STUCK = 0.01  # share of stories that repeat it endlessly


def pattern(rng: random.Random, language: str) -> Tokens:
    """2 to 12 words in random order, repeated. They can only be predicted by copying."""
    return [symbol(concept, language) for concept in rng.sample(list(WORDS), rng.randint(2, 12))] * ENDLESS


def exchange(rng: random.Random, language: str, *, stuck: bool = False) -> tuple[Tokens, Tokens]:
    """A prompt that asks for a story about a being and a thing, and a story of one to three sentences."""
    clauses = [random_clause(rng)]
    clauses += [random_clause(rng, being=clauses[0].being) for _ in range(rng.randint(0, 2))]
    colon, comma, stop = (PUNCTUATION[language][mark] for mark in ":,.")
    subject = [symbol(clauses[0].being, language), comma, symbol(clauses[0].thing, language)]
    answer: Tokens = []
    said_after = rng.randrange(len(clauses)) if stuck or rng.random() < SAID else None
    for number, clause in enumerate(clauses):
        sentence = sentence_tokens([clause], language)
        if number == said_after:
            phrase = [symbol(concept, language) for concept in rng.choice(PHRASES)]
            if stuck:
                return [symbol("story", language), colon, *subject, stop], answer + sentence[:-1] + phrase * ENDLESS
            sentence[-1:] = [*phrase * (2 if rng.random() < SAID_TWICE else 1), stop]
        answer += sentence
    return [symbol("story", language), colon, *subject, stop], answer


def chat(rng: random.Random, language: str) -> Tokens:
    """A prompt and its answer. Some answers repeat a phrase endlessly."""
    prompt, answer = exchange(rng, language, stuck=rng.random() < STUCK)
    return [USER, *prompt, END, ASSISTANT, *answer]


WORLD = Reading(
    {chat: 10, word_list: 1, refrain: 1, quotation: 1, pattern: 1},
    languages=(LANGUAGE,),
    # No end marker: otherwise the last period of a loop would differ from the first in its distance to the end.
    loops_end=False,
)
# The first stage of training teaches copying. In mixed text alone this takes many times longer.
NURSERY = Reading({pattern: 1}, languages=(LANGUAGE,), loops_end=False)


def story_prompts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Make `count` rows with `prompt` as messages, in TRL's format."""
    rng = random.Random(seed)
    prompts = (exchange(rng, LANGUAGE)[0] for _ in range(count))
    return [{"prompt": [{"role": "user", "content": written(prompt)}]} for prompt in prompts]
