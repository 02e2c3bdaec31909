"""Texts to train SAEs on, in which each word tends to be followed by the same few."""

import random

WORDS = [f"w{number}" for number in range(60)]


def sentences(seed: int, count: int) -> list[str]:
    """Each word tends to be followed by the same few."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        words = [rng.randrange(len(WORDS))]
        while len(words) < 30:
            words.append((7 * words[-1] + rng.choice((1, 1, 1, 2, 5))) % len(WORDS))
        texts.append(" ".join(WORDS[word] for word in words))
    return texts
