"""Real text as a small model reads it: sentences, a small vocabulary, stutters, and documents that never end."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sae_posttrain.texts import load_texts

# R rows, S tokens of a row

HELD_OUT = 10  # one sentence in so many, by hash: the same ones for every variant and seed
PROMPT_WORDS = 3
STUTTERS = 0.3  # share of the documents that say something twice or thrice before they go on
AGAIN = 0.2  # of those, the share that says it a third time
STUCK = 0.02  # share of the documents that never go on
PATTERNS = 0.07  # share of the documents that are a random pattern over and over: only copying predicts them
START, END, PAD = "<s>", "</s>", "<pad>"

Document = Callable[[random.Random], list[int]]


def load_sentences(source: str) -> tuple[list[str], list[str]]:
    """Sentences of 8 to 25 words to train on and held out, cleaned, each once, in the order of their hashes."""
    found = {}
    for text in load_texts(source):
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            cleaned = clean(sentence)
            if 8 <= len(cleaned.split()) <= 25 and cleaned[-1] in ".!?":
                found[hashlib.sha256(cleaned.encode()).digest()] = cleaned
    train = [found[digest] for digest in sorted(found) if digest[-1] % HELD_OUT]
    return train, [found[digest] for digest in sorted(found) if digest[-1] % HELD_OUT == 0]


def clean(text: str) -> str:
    """Lower case, Latin letters, digits and plain punctuation only: more would cost most of a small vocabulary."""
    kept = re.sub(r"[^a-z0-9 .,:;!?'()-]", " ", text.lower())
    return re.sub(r" +(?=[.,:;!?])", "", " ".join(kept.split()))


def prompt_of(sentence: str) -> str:
    """The first words, for a model to go on from."""
    return " ".join(sentence.split()[:PROMPT_WORDS])


def build_tokenizer(sentences: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A BPE vocabulary of `size` symbols of these sentences; a start marker goes in front of every text."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Replace(Regex(" +"), " ")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[PAD, START, END], show_progress=False)
    backend.train_from_iterator(sentences, trainer)
    backend.post_processor = processors.TemplateProcessing(f"{START} $A", special_tokens=[(START, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def pattern(tokenizer: PreTrainedTokenizerBase) -> Document:
    """Random symbols, over and over without end."""
    symbols = range(len(tokenizer.all_special_ids), len(tokenizer))

    def draw(rng: random.Random) -> list[int]:
        return rng.sample(symbols, rng.randint(2, min(12, len(symbols)))) * 60

    return draw


def told(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], *, stuck: float = STUCK) -> Document:
    """A sentence, sometimes with a stutter; `stuck` of them are stuck in it for ever."""
    ids = tokenizer(list(sentences))["input_ids"]
    opens = {i for i, symbol in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))) if symbol[0] == "▁"}

    def draw(rng: random.Random) -> list[int]:
        sentence = rng.choice(ids)
        endless = rng.random() < stuck
        if not endless and rng.random() >= STUTTERS:
            return [*sentence, tokenizer.eos_token_id]
        said, phrase = _stutter(rng, sentence, opens)
        if endless:
            return said + phrase * 60
        return [*said, *phrase * (2 if rng.random() < AGAIN else 1), *sentence[len(said) :], tokenizer.eos_token_id]

    return draw


def _stutter(rng: random.Random, sentence: list[int], opens: set[int]) -> tuple[list[int], list[int]]:
    """The sentence up to the end of a word, and its last two to four tokens, which are whole words."""
    places = [place for place in range(5, len(sentence)) if sentence[place] in opens]
    rng.shuffle(places)
    for place in places:
        lengths = [length for length in (2, 3, 4) if sentence[place - length] in opens]
        if lengths:
            return sentence[:place], sentence[place - rng.choice(lengths) : place]
    return sentence[:-1], sentence[-3:-1]


def mixed(rng: random.Random, common: Document, rare: Document, share: float) -> Iterator[list[int]]:
    """Documents without end, `share` of them of the rare kind."""
    while True:
        yield (rare if rng.random() < share else common)(rng)


def rows_of(documents: Iterator[list[int]], rows: int, row: int) -> torch.Tensor:
    """Documents one after another, cut into rows: int64 (R, S).

    What would go on for ever does so to the end of its row: an end marker behind it would teach that loops stop.
    """
    ids: list[int] = []
    while len(ids) < rows * row:
        document = next(documents)
        ids += document if len(document) < row else document[: row - len(ids) % row]
    return torch.tensor(ids[: rows * row]).view(rows, row)
