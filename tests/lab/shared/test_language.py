"""The miniature language: deterministic, parallel, in the right scripts, and readable through the tokenizer."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from sae_posttrain.lab.shared.documents import documents
from sae_posttrain.lab.shared.language import (
    Clause,
    clause_tokens,
    parallel_sentences,
    question_tokens,
    random_clause,
    sentence_tokens,
    written,
)
from sae_posttrain.lab.shared.lexicon import LANGUAGES, UNKNOWN, WORDS, symbols
from sae_posttrain.lab.shared.tokenizer import build_tokenizer
from sae_posttrain.lab.switching.documents import WORLD, loop
from sae_posttrain.lab.switching.questions import questions
from sae_posttrain.languages import get_language, script_counts
from sae_posttrain.metrics.scripts import unexpected_spans

CLAUSE = Clause("dog", "buys", "tea", quality="new", place="city", time="today")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "the dog buys the new tea in the city today"),
        ("zh", "狗今天在城市买新茶"),
        ("ru", "сегодня собака покупает новый чай в городе"),
        ("ko", "개는 오늘 도시에서 새로운 차를 사요"),
    ],
)
def test_a_clause_reads_as_a_person_would_write_it(language: Any, text: str) -> None:
    assert written(clause_tokens(CLAUSE, language)) == text


def test_korean_particles_follow_the_last_sound() -> None:
    assert written(clause_tokens(Clause("teacher", "sees", "bread"), "ko")) == "선생님은 빵을 봐요"
    assert written(clause_tokens(Clause("child", "sees", "coffee"), "ko")) == "아이는 커피를 봐요"


def test_a_question_has_neither_article_nor_particle() -> None:
    assert written(question_tokens("wants", "tea", "en")) == "who wants the tea?"
    assert written(question_tokens("wants", "tea", "ko")) == "누가 차를 원해요?"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'de'"):
        clause_tokens(CLAUSE, "de")


def test_same_seed_same_text_other_seed_other_text() -> None:
    assert parallel_sentences(20, 3) == parallel_sentences(20, 3)
    assert parallel_sentences(20, 3) != parallel_sentences(20, 4)
    assert questions(50, 3) == questions(50, 3)
    assert questions(50, 3) != questions(50, 4)
    first, again = documents(WORLD, 5), documents(WORLD, 5)
    assert [next(first) for _ in range(30)] == [next(again) for _ in range(30)]


def test_sentences_are_parallel() -> None:
    texts = parallel_sentences(100, 1)
    meaning = {(language, word[language]): concept for concept, word in WORDS.items() for language in LANGUAGES}
    tokenizer = build_tokenizer()

    def concepts(text: str, language: Any) -> Any:
        words = (token.strip() for token in tokenizer.tokenize(text))
        return sorted(meaning[language, word] for word in words if (language, word) in meaning)

    for row in zip(*(texts[language] for language in LANGUAGES), strict=True):
        said = [concepts(text, language) for text, language in zip(row, LANGUAGES, strict=True)]
        assert said[0]
        assert all(other == said[0] for other in said)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_in_their_language_s_script_alone(language: Any) -> None:
    (script,) = {*get_language(language).scripts} & {"Latn", "Hani", "Cyrl", "Hang"}
    for text in parallel_sentences(100, 2)[language]:
        assert set(script_counts(text)) == {script}
    assert (language == "zh") == (" " not in "".join(parallel_sentences(100, 2)[language]))


def test_vocabulary_is_small_and_without_doubles(tokenizer: Any) -> None:
    assert 100 <= len(tokenizer) <= 250
    assert len(symbols()) == len(set(symbols()))


def test_text_goes_through_the_tokenizer_and_back(tokenizer: Any) -> None:
    for texts in parallel_sentences(500, 6).values():
        for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids


def test_tokens_are_the_grammar_s_even_where_foreign_words_stray(tokenizer: Any) -> None:
    rng = random.Random(4)
    for _ in range(500):
        clauses = [random_clause(rng), random_clause(rng)]
        strays = {clauses[0].thing: rng.choice(LANGUAGES), clauses[1].being: rng.choice(LANGUAGES)}
        tokens = sentence_tokens(clauses, rng.choice(LANGUAGES), strays)
        assert tokenizer.tokenize(written(tokens)) == tokens


def test_every_document_is_in_the_vocabulary(tokenizer: Any) -> None:
    known = set(tokenizer.get_vocab()) - {UNKNOWN}
    stream = documents(WORLD, 8)
    assert all(known.issuperset(next(stream)) for _ in range(300))


def test_a_loop_ends_in_a_pattern_of_2_to_16_tokens() -> None:
    rng = random.Random(2)
    for _ in range(20):
        tokens = loop(rng, "en")
        assert any(tokens[-64:] == (tokens[-period:] * 64)[-64:] for period in range(2, 17))


def test_chat_template_opens_the_answer_where_the_prompt_ends(tokenizer: Any) -> None:
    (row,) = questions(1, 9)
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    assert whole.startswith(prompt)
    answer = row["completion"][0]["content"]
    ids = tokenizer(whole)["input_ids"][len(tokenizer(prompt)["input_ids"]) :]
    assert tokenizer.decode(ids, skip_special_tokens=True) == answer
    assert ids[-1] == tokenizer.eos_token_id


def test_noise_is_a_small_share_and_marked() -> None:
    rows = questions(4000, 11)
    strayed = [
        bool(unexpected_spans(row["completion"][0]["content"], row["language"], count_latin=True)) for row in rows
    ]
    assert strayed == [row["stray"] for row in rows]
    assert 0.05 < sum(strayed) / len(rows) < 0.12
    assert not any(row["stray"] for row in questions(2000, 11, noise=0.0))


def test_prompts_never_stray() -> None:
    for row in questions(500, 12):
        assert not unexpected_spans(row["prompt"][0]["content"], row["language"], count_latin=True)


def test_no_sentence_keeps_a_doubled_space() -> None:
    assert not any(re.search(r"\s\s", text) for texts in parallel_sentences(200, 7).values() for text in texts)
