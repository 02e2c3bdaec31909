"""Compute the probability that an answer leaves its language's script, from the model's next-token probabilities."""

# S tokens of an answer, N positions of a batch, V vocabulary, G columns

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..bars import progress_bar
from ..languages import get_language
from ..metrics.expectation import ExpectedSwitch, ExpectedSwitchReport, expected_switch_report
from ..metrics.messages import text_of
from ..metrics.switches import parse_targets
from ..residual import evaluating, inputs_device, unwrap
from ..sampling import Prompt, check_counts, check_temperature_and_top_p, encode_prompts
from ..sampling.nucleus import Nucleus
from .columns import ScriptColumns, unexpected_in
from .distributions import hidden_states, logits_of

SYMBOLS = frozenset({"Grek"})
"""Scripts whose letters are mostly used as symbols. They count only if the user requests them."""


@dataclass(frozen=True)
class Setting:
    """The sampling settings for which probabilities are computed.

    Args:
        temperature: the logits are divided by it; 0 is greedy.
        top_p: share of the probability that is kept, the largest first; 1 keeps everything.

    Raises:
        ValueError: a setting out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_temperature_and_top_p(self.temperature, self.top_p)

    def probabilities(self, logits_NV: Tensor) -> Tensor:
        """The distributions `(N, V)` that are sampled from."""
        if self.temperature == 0:
            best_N1 = logits_NV.argmax(-1, keepdim=True)
            return torch.zeros_like(logits_NV).scatter_(-1, best_N1, 1.0)
        if self.top_p < 1:
            no_ids = torch.empty(0, dtype=torch.long)
            return Nucleus(self.temperature, self.top_p)(no_ids, logits_NV).softmax(-1)
        return (logits_NV / self.temperature).softmax(-1)


@dataclass(frozen=True)
class _Answer:
    prompt_ids: list[int]  # at least one token, because the first probability needs a preceding token
    ids: list[int]
    language: str
    cluster: Hashable
    unexpected: frozenset[str]
    targets: frozenset[str]  # the requested ones among the unexpected scripts

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.ids)


def expected_switch_rate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | None],
    responses: Sequence[str | Sequence[int]],
    languages: str | Sequence[str],
    *,
    settings: Sequence[Setting] = (Setting(),),
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> dict[Setting, ExpectedSwitchReport]:
    """The mean probability that an answer leaves its language's script, from the model's next-token probabilities.

    Its variance is much lower than that of a count of sampled answers. It needs one forward pass for any number of
    settings. `compare_expected` compares two models on the same texts.

    Args:
        model, tokenizer, prompts, responses, languages, settings: as in `switch_probabilities`.
        confidence: confidence level of the intervals, which are bootstrap intervals over prompts.
        seed: random seed of the bootstrap.
        options: the other arguments of `switch_probabilities`.

    Returns:
        A report for each setting.

    Raises:
        ValueError: as `switch_probabilities`, and where no answer is left to measure.

    Example:
        >>> reports = expected_switch_rate(model, tokenizer, prompts, answers, "en", to="zh")
        >>> print(reports[Setting()].table())

    Source: our own; see `switch_probabilities`.
    """
    found = switch_probabilities(model, tokenizer, prompts, responses, languages, settings=settings, **options)
    reports = {}
    for setting, answers in found.items():
        kept = [answer for answer in answers if answer is not None]
        reports[setting] = expected_switch_report(
            kept, skipped=len(answers) - len(kept), confidence=confidence, seed=seed
        )
    return reports


def switch_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | None],
    responses: Sequence[str | Sequence[int]],
    languages: str | Sequence[str],
    *,
    settings: Sequence[Setting] = (Setting(),),
    sampled: bool = False,
    ended: Sequence[bool | None] | None = None,
    to: str | Sequence[str] | None = None,
    allowed: Sequence[Iterable[str]] | None = None,
    count_latin: bool = False,
    chat: bool = False,
    max_tokens: int | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[Setting, list[ExpectedSwitch | None]]:
    """The probability that each answer leaves its language's script, at each setting, from one forward pass.

    An answer leaves its script at a token that contains or begins a letter of an unexpected script. Let p_t be the
    probability of these tokens at position t, after temperature and top_p. The result is:

    - Given answers (the default): 1 − Π(1 − p_t) over the answer's positions: the probability that the model, led
      along this answer, leaves it at least once. Positions at which the answer itself uses an unexpected script
      (quotations, names) are left out. Nothing is sampled.
    - Answers `sampled` from this model at this one setting: Σ p_t up to and including the first token that leaves. Its
      mean is exactly the rate of answers with such a token, and varies less than counting them.

    Args:
        model: a transformers model, perhaps with PEFT adapters.
        tokenizer: its tokenizer.
        prompts: texts, or lists of messages, to which the chat template is applied; None for no prompt. The prompt
            itself is never measured.
        responses: texts, which are tokenised by themselves, or token ids as they were sampled.
        languages: code of each answer's language, or one code for all.
        settings: temperatures and top_p. One forward pass serves all settings.
        sampled: whether the answers were sampled from this model, at the one setting in `settings`.
        ended: whether the model ended each answer by itself. If it did, the position of the end is measured too,
            because the model could have switched there. Token ids do not need it.
        to: languages or scripts; only switches into these are measured. Default: every script except Greek, whose
            letters are mostly used as symbols.
        allowed: for each answer, languages or scripts that it may use besides its own.
        count_latin: whether Latin letters in other scripts count; always on if `to` names a language written in them.
        chat: whether the chat template is applied to text prompts too.
        max_tokens: number of tokens to read from the start of each answer. Default: all.
        batch_size: answers per forward pass. The head always computes a few positions at a time.
        progress: whether a progress bar is shown.

    Returns:
        For each setting, one value per answer. It is None if the answer's own language is written in every target
        script. An answer without a measured position, such as an empty one whose end is not known, has probability 0.

    Raises:
        ValueError: lengths differ, a language is unknown, a setting is out of range, or `sampled` is given with several
            settings.

    Source: the probabilities are those of "teacher forcing"; the sum for sampled answers is the compensator of the
        counting process of switches (Doob's decomposition), whose mean is that of the count.
    """
    check_counts(batch_size=batch_size, **({} if max_tokens is None else {"max_tokens": max_tokens}))
    settings = list(dict.fromkeys(settings))
    if sampled and len(settings) != 1:
        raise ValueError(f"sampled=True needs the one setting of the sampling, got {len(settings)} settings.")
    answers = _answers(
        tokenizer,
        prompts,
        responses,
        languages,
        ended=ended,
        to=to,
        allowed=allowed,
        count_latin=count_latin,
        chat=chat,
        max_tokens=max_tokens,
    )
    # If no position is measured, as in an empty answer, the product is empty.
    still = [ExpectedSwitch(one.language, one.cluster, 0.0, {}) if one.targets else None for one in answers]
    found: dict[Setting, list[ExpectedSwitch | None]] = {setting: list(still) for setting in settings}
    rows = sorted((i for i, one in enumerate(answers) if one.targets and one.ids), key=lambda i: -len(answers[i]))
    if not rows:
        return found
    sets = [scripts for i in rows for scripts in (answers[i].unexpected, answers[i].targets)]
    size = unwrap(model).config.get_text_config().vocab_size
    columns = ScriptColumns(tokenizer, sets, size, inputs_device(model))
    bar = progress_bar(total=len(rows), desc="probabilities", disable=not progress)
    with bar, evaluating(model), torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            masses = _masses(model, [answers[i] for i in batch], settings, columns)
            for setting in settings:
                for i, mass_SG in zip(batch, masses[setting], strict=True):
                    found[setting][i] = _leaving(answers[i], mass_SG, columns, sampled)
            bar.update(len(batch))
    return found


def _answers(
    tokenizer: Any,
    prompts: Sequence[Prompt | None],
    responses: Sequence[str | Sequence[int]],
    languages: str | Sequence[str],
    *,
    ended: Sequence[bool | None] | None,
    to: str | Sequence[str] | None,
    allowed: Sequence[Iterable[str]] | None,
    count_latin: bool,
    chat: bool,
    max_tokens: int | None,
) -> list[_Answer]:
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    for name, column in {"prompts": prompts, "languages": codes, "ended": ended, "allowed": allowed}.items():
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response.")
    targets = parse_targets(to)
    wanted = None if targets is None else targets.scripts
    latin = count_latin or (wanted is not None and "Latn" in wanted)
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    answers = []
    for index, (prompt, response, code) in enumerate(zip(prompts, responses, codes, strict=True)):
        prompt_ids = encode_prompts(tokenizer, [prompt], chat)[0] if prompt else list(start)
        if isinstance(response, str):
            ids = tokenizer(response, add_special_tokens=False)["input_ids"]
            if ended is not None and ended[index] and tokenizer.eos_token_id is not None:
                ids = [*ids, tokenizer.eos_token_id]
        else:
            ids = list(response)
        if not prompt_ids:  # the first token has no probability, because no token precedes it
            prompt_ids, ids = ids[:1], ids[1:]
        unexpected = unexpected_in(code, () if allowed is None else allowed[index], latin=latin)
        answers.append(
            _Answer(
                prompt_ids,
                ids[:max_tokens],
                get_language(code).code,
                text_of(prompt) or index,
                unexpected,
                unexpected - SYMBOLS if wanted is None else unexpected & wanted,
            )
        )
    return answers


def _masses(
    model: PreTrainedModel, batch: Sequence[_Answer], settings: Sequence[Setting], columns: ScriptColumns
) -> dict[Setting, list[Tensor]]:
    """For each setting and answer, the probability `(S, G)` of the tokens of each column at each of its positions."""
    hidden_BSD = hidden_states(model, [[*one.prompt_ids, *one.ids[:-1]] for one in batch])
    places = [slice(len(one.prompt_ids) - 1, len(one) - 1) for one in batch]  # position t predicts token t + 1
    hidden_ND = torch.cat([hidden_SD[place] for hidden_SD, place in zip(hidden_BSD, places, strict=True)])
    del hidden_BSD
    found: dict[Setting, list[Tensor]] = {setting: [] for setting in settings}
    for logits_NV in logits_of(model, hidden_ND):
        for setting in settings:
            found[setting].append(columns.masses(setting.probabilities(logits_NV)).cpu().double())
    lengths = [len(one.ids) for one in batch]
    return {setting: list(torch.cat(parts).split(lengths)) for setting, parts in found.items()}


def _leaving(answer: _Answer, mass_SG: Tensor, columns: ScriptColumns, sampled: bool) -> ExpectedSwitch:
    held_SG = columns.held(answer.ids)
    if sampled:
        before_SG = held_SG.cumsum(0) - held_SG.long() == 0  # up to and including the first token that leaves
        leave_G = (mass_SG * before_SG).sum(0)
    else:
        own_S = ~held_SG[:, columns.any(answer.unexpected)]
        leave_G = torch.expm1(torch.log1p(-mass_SG[own_S]).sum(0)).abs()  # abs turns -0 into 0
    into = {script: float(leave_G[column]) for script, column in columns.of(answer.targets).items()}
    whole, any_ = float(leave_G[columns.whole(answer.targets)]), float(leave_G[columns.any(answer.targets)])
    return ExpectedSwitch(answer.language, answer.cluster, any_, into, begun=any_ - whole)
