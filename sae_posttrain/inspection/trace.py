"""Trace features around a switch of language, in one model, or in several models that read the same responses."""

# W switches, O offsets, F selected features of one layer, S sequence

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..artefacts import SWITCH_TRACES
from ..discovery.tokens import cut
from ..feature_set import FeatureSet, LayerFeatures
from ..languages import get_language
from ..metrics import unexpected_spans
from ..sampling import encode_prompts
from .pre_activations import read_pre_activations


@dataclass(frozen=True)
class SwitchPassage:
    """A prompt with its response.

    Args:
        ids: token ids of the prompt and the response.
        start: the position of the response's first token.
        place: the position of the first token of the foreign word; None for a response without a switch.
    """

    ids: tuple[int, ...]
    start: int
    place: int | None


@dataclass(frozen=True)
class TraceCurve:
    """A mean over switches at each offset.

    Args:
        mean: the mean at each offset; None if no switch has a token there.
        error: its standard error; None if fewer than two switches have a token there.
        elsewhere: the mean over the tokens of responses without a switch; None if there are none.
    """

    mean: tuple[float | None, ...]
    error: tuple[float | None, ...]
    elsewhere: float | None


@dataclass(frozen=True)
class LayerTrace:
    """The curves of one layer's features of one target.

    Args:
        layer: 0-based decoder block.
        target: language code that the features stand for.
        average: the mean over the features, each in units of its typical activation.
        features: feature → its own curve, in units of the pre-activation. Only the few with the highest scores.
    """

    layer: int
    target: str
    average: TraceCurve
    features: Mapping[int, TraceCurve]


@dataclass(frozen=True)
class SwitchTrace:
    """One model's pre-activations around the switches into one target.

    Args:
        model: the model's name.
        target: language code that the responses switch into.
        offsets: in tokens. 0 is the first token of the foreign word, which is predicted from the residual at -1.
        switches: number of switches that the means are taken over.
        ordinary: number of responses without a switch, in the same languages, that `elsewhere` is taken over.
        layers: the curves of each layer.
    """

    model: str
    target: str
    offsets: tuple[int, ...]
    switches: int
    ordinary: int
    layers: tuple[LayerTrace, ...]


def find_passages(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    target: str,
    *,
    limit: int = 500,
    chat: bool = False,
) -> list[SwitchPassage]:
    """Find the responses that switch into `target`; add to each, if there is one, a response in its language without.

    The text is tokenised again, so the tokens may differ from those that were sampled.

    Args:
        tokenizer: the model's fast tokenizer.
        rows: each with `response`, `language` and optionally `prompt`, which is a text or messages.
        target: language code that the responses switch into.
        limit: largest number of switches; the first ones are taken.
        chat: whether the chat template is applied to text prompts too.

    Returns:
        The passages with a switch, each followed by the one without that was added to it.

    Raises:
        ValueError: no response switches into `target`.

    Example:
        >>> rows = [{"prompt": "How are you?", "response": "I am 很好, thanks.", "language": "en"}]
        >>> passages = find_passages(tokenizer, rows, "zh")

    Source: our own; switches are those of `unexpected_spans`.
    """
    scripts = set(get_language(target).scripts)
    switching, ordinary = [], dict[str, deque[Mapping[str, Any]]]()
    for row in rows:
        spans = unexpected_spans(row["response"], row["language"], count_latin="Latn" in scripts)
        into = [span for span in spans if span.script in scripts]
        if into:
            switching.append((row, into[0].start))
        elif not scripts <= set(get_language(row["language"]).scripts):
            ordinary.setdefault(row["language"], deque()).append(row)
    if not switching:
        raise ValueError(
            f"None of the {len(rows)} responses switches into {target}. Give more responses, sampled from the model "
            "before it was trained against switching."
        )
    found = []
    for row, start in switching[:limit]:
        found.append(_passage(tokenizer, row, start, chat))
        if ordinary.get(row["language"]):
            found.append(_passage(tokenizer, ordinary[row["language"]].popleft(), None, chat))
    return found


def trace_switches(
    model: nn.Module,
    features: FeatureSet | str | Path,
    passages: Sequence[SwitchPassage],
    target: str,
    *,
    name: str,
    before: int = 10,
    after: int = 5,
    batch_size: int = 8,
    show: int = 3,
) -> SwitchTrace:
    """Measure the mean pre-activation of the target's features at each token around a switch.

    Only the response and the last token of the prompt count. The model reads the given responses and does not sample
    new ones, so several models can be compared on the same switches.

    Args:
        model: the model, which may be wrapped.
        features: a feature set, or its path.
        passages: as `find_passages` returns them.
        target: language code that the passages switch into.
        name: the model's name in the report.
        before: number of tokens before the foreign word.
        after: number of tokens after the first token of the foreign word.
        batch_size: passages per forward pass.
        show: number of features per layer that get their own curve.

    Returns:
        The mean pre-activations by offset from the switch, for each layer and for some single features.

    Example:
        >>> passages = find_passages(tokenizer, rows, "zh")
        >>> trace = trace_switches(model, features, passages, "zh", name="base")

    Source: arXiv:2507.14894, the pre-activations before a switch.
    """
    features = FeatureSet.of(features).select([target])
    offsets_O = torch.arange(-before, after + 1)
    around: dict[int, list[Tensor]] = {layer.layer: [] for layer in features.layers}
    sums: dict[int, list[Tensor]] = {layer.layer: [] for layer in features.layers}
    for n, pre in read_pre_activations(model, features, [one.ids for one in passages], batch_size=batch_size):
        for number, pre_SF in pre.items():
            if passages[n].place is None:
                sums[number].append(pre_SF[passages[n].start :].double().sum(0))
            else:
                around[number].append(_window(pre_SF, passages[n], offsets_O))
    ordinary = [one for one in passages if one.place is None]
    tokens = sum(len(one.ids) - one.start for one in ordinary)
    traces = []
    for layer in features.layers:
        own = sums[layer.layer]
        elsewhere_F = torch.stack(own).sum(0) / tokens if own else torch.full((len(layer.ids),), torch.nan)
        traces.append(_layer_trace(layer, target, torch.stack(around[layer.layer]).double(), elsewhere_F, show))
    switches = len(passages) - len(ordinary)
    return SwitchTrace(name, target, tuple(offsets_O.tolist()), switches, len(ordinary), tuple(traces))


def traces_to_json(traces: Sequence[SwitchTrace]) -> dict[str, Any]:
    """Plain values for JSON."""
    return {SWITCH_TRACES: [asdict(one) for one in traces]}


def _passage(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], start: int | None, chat: bool
) -> SwitchPassage:
    prompt = row.get("prompt")
    # Without a prompt, only the special tokens that begin every text come first, if there are any.
    head = encode_prompts(tokenizer, [prompt], chat)[0] if prompt else list(tokenizer("")["input_ids"])
    response = cut(tokenizer, row["response"])
    place = None
    if start is not None:
        place = len(head) + next(n for n, (_, end) in enumerate(response.places) if end > start)
    return SwitchPassage((*head, *response.ids), len(head), place)


def _layer_trace(layer: LayerFeatures, target: str, pre_WOF: Tensor, elsewhere_F: Tensor, show: int) -> LayerTrace:
    typical_F = layer.typical.double()
    average = _curve((pre_WOF / typical_F).mean(-1), float((elsewhere_F / typical_F).mean()))
    shown = layer.score.argsort(descending=True, stable=True)[:show].tolist()
    return LayerTrace(
        layer.layer, target, average, {layer.ids[f]: _curve(pre_WOF[..., f], float(elsewhere_F[f])) for f in shown}
    )


def _window(pre_SF: Tensor, passage: SwitchPassage, offsets_O: Tensor) -> Tensor:
    """`(O, F)` pre-activations around the switch; NaN where the response has no such token."""
    assert passage.place is not None
    places_O = offsets_O + passage.place
    # The first position of a sequence is left out, as in discovery: its residual is unlike that of any other.
    inside_O = (places_O >= max(1, passage.start - 1)) & (places_O < len(pre_SF))
    return torch.where(inside_O[:, None], pre_SF[places_O.clamp(0, len(pre_SF) - 1)], torch.nan)


def _curve(values_WO: Tensor, elsewhere: float) -> TraceCurve:
    present_WO = ~values_WO.isnan()
    count_O = present_WO.sum(0)
    mean_O = values_WO.nanmean(0)
    squares_O = torch.where(present_WO, (values_WO - mean_O) ** 2, 0.0).sum(0)
    error_O = (squares_O / (count_O - 1) / count_O).sqrt()  # NaN if there is only one switch
    return TraceCurve(_plain(mean_O), _plain(error_O), _known(elsewhere))


def _plain(values_O: Tensor) -> tuple[float | None, ...]:
    return tuple(_known(value) for value in values_O.tolist())


def _known(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
