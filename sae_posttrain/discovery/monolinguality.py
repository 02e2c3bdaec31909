"""Language features: those an SAE uses for one language and no other."""

# L languages, D model width, K dictionary size, F selected features

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..feature_set import FeatureSet, LayerFeatures, Provenance
from ..languages import get_language
from ..residual import text_config, unwrap
from ..sae import SparseAutoencoder, load_sae
from .statistics import LayerStatistics, collect_statistics

logger = logging.getLogger(__name__)

# A feature is called monolingual when no other language reaches this share of its mean activation.
FIRES_ELSEWHERE = 0.5


def monolinguality(activation_LK: Tensor) -> Tensor:
    """Mean activation in a language minus the mean over the other languages' means, for every language and feature.

    Args:
        activation_LK: mean activation per language.

    Returns:
        `(L, K)` scores. Source: arXiv:2507.14894, the definition of nu.
    """
    others = len(activation_LK) - 1
    return activation_LK - (activation_LK.sum(0) - activation_LK) / others


def discover_language_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sae: str | Path | Mapping[int, SparseAutoencoder],
    texts: Mapping[str, Sequence[str]],
    *,
    layers: Sequence[int],
    top: int = 2,
    targets: Sequence[str] | None = None,
    select: Literal["monolinguality", "random"] = "monolinguality",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int = 512,
    progress: bool = True,
) -> FeatureSet:
    """Find the features that stand for each language, with the baselines that training compares against.

    Args:
        sae: a folder or hub id for `load_sae`, or the SAEs by layer.
        texts: language code → texts; about 100 each, in two languages at least. The published work used 11.
        layers: 0-based decoder blocks; the last two are the published choice.
        top: features per language and layer.
        targets: languages to find features for; all of `texts` by default.
        select: `random` draws features that fire at all instead: the control that a claim needs.
        seed: of the random choice.
        batch_size: texts per forward.
        max_length: tokens of each text that are read.

    Raises:
        ValueError: fewer than two languages, an unknown code, a language without texts, an SAE of another width.
    """
    texts = _by_language(texts)
    targets = [targets] if isinstance(targets, str) else targets
    targets = [get_language(code).code for code in targets] if targets is not None else list(texts)
    _check_request(texts, targets, layers, top)
    saes = _load_saes(sae, layers, text_config(model).hidden_size)
    statistics = collect_statistics(
        model, tokenizer, saes, texts, batch_size=batch_size, max_length=max_length, progress=progress
    )
    found = []
    for layer in layers:
        chosen = _choose(statistics[layer], targets, top, select, seed + 1000 * layer)
        _warn(layer, chosen, statistics[layer], targets, top, select)
        if chosen:
            found.append(_layer_features(saes[layer], statistics[layer], chosen))
    if not found:
        raise ValueError(
            f"No feature of layers {list(layers)} is more active in {', '.join(targets)} than in the other languages. "
            "Try later layers, or check that SAE and model belong together."
        )
    return FeatureSet(tuple(found), _provenance(model, saes, texts, select))


def _by_language(texts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    named: dict[str, Sequence[str]] = {}
    for name, members in texts.items():
        code = get_language(name).code
        if code in named:
            raise ValueError(f"Texts were given twice for {code} (as {name!r} too); put them into one list.")
        named[code] = members
    return named


def _load_saes(
    sae: str | Path | Mapping[int, SparseAutoencoder], layers: Sequence[int], width: int
) -> dict[int, SparseAutoencoder]:
    if isinstance(sae, Mapping):
        missing = [layer for layer in layers if layer not in sae]
        if missing:
            raise ValueError(f"No SAE was given for layers {missing}; those given are for {sorted(sae)}.")
        saes = {layer: sae[layer] for layer in layers}
    else:
        saes = {layer: load_sae(sae, layer) for layer in layers}
    for layer, one in saes.items():
        if one.layer != layer:
            raise ValueError(f"The SAE given for layer {layer} was trained on layer {one.layer} ({one.source}).")
        if one.d_model != width:
            raise ValueError(
                f"The SAE {one.source} (layer {layer}) reads residuals of width {one.d_model}, but the model's are "
                f"{width} wide: it was trained on another model."
            )
    return saes


def _provenance(
    model: nn.Module, saes: Mapping[int, SparseAutoencoder], texts: Mapping[str, Sequence[str]], select: str
) -> Provenance:
    config, base = text_config(model), unwrap(model)
    return Provenance(
        base_model=getattr(base.config, "_name_or_path", "") or type(base).__name__,
        d_model=config.hidden_size,
        num_layers=config.num_hidden_layers,
        sae=next(iter(saes.values())).source,
        sae_sha256={Path(one.file).name: _sha256_of_file(one.file) for one in saes.values() if one.file},
        texts_sha256=_sha256_of_texts(texts),
        selection=select,
    )


def _check_request(texts: Mapping[str, Sequence[str]], targets: Sequence[str], layers: Sequence[int], top: int) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"Texts in {len(texts)} language were given; a feature of one language shows only against others, so give "
            "at least two."
        )
    missing = [code for code in targets if code not in texts]
    if missing:
        raise ValueError(f"No texts for {', '.join(missing)}; features are found in the language's own texts.")
    if not layers or len(set(layers)) != len(layers):
        raise ValueError(f"Layers {list(layers)}: give at least one, each once.")
    if top < 1:
        raise ValueError(f"top={top}: at least one feature per language and layer.")


Choice = tuple[int, str, float]
"""(feature id, language it stands for, score)."""


def _choose(
    statistics: Mapping[str, LayerStatistics], targets: Sequence[str], top: int, select: str, seed: int
) -> list[Choice]:
    codes = list(statistics)
    score_LK = monolinguality(torch.stack([statistics[code].mean_activation for code in codes]))
    ranked: list[Choice] = []
    for target in targets:
        score_K = score_LK[codes.index(target)]
        # A stable sort: equal scores keep the dictionary's order, so two runs choose alike.
        order = score_K.sort(descending=True, stable=True).indices[:top].tolist()
        ranked += [(feature, target, float(score_K[feature])) for feature in order if score_K[feature] > 0]
    if select == "monolinguality":
        return ranked
    if select != "random":
        raise ValueError(f"select={select!r}: expected 'monolinguality' or 'random'.")
    alive_K = torch.stack([one.firing for one in statistics.values()]).sum(0) > 0
    alive_K[[feature for feature, _, _ in ranked]] = False
    candidates = alive_K.nonzero().flatten()
    draw = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[: top * len(targets)]
    drawn = candidates[draw.to(candidates.device)].tolist()
    return [
        (feature, target, float(score_LK[codes.index(target), feature]))
        for position, target in enumerate(targets)
        for feature in drawn[position * top : (position + 1) * top]
    ]


def _layer_features(
    sae: SparseAutoencoder, statistics: Mapping[str, LayerStatistics], chosen: Sequence[Choice]
) -> LayerFeatures:
    ids = [feature for feature, _, _ in chosen]
    encoder_FD, bias_F = sae.encoder[ids].double().cpu(), sae.bias[ids].double().cpu()
    statistics = {code: one.cpu() for code, one in statistics.items()}

    def typical(feature: int, target: str) -> float:
        own = statistics[target]
        if own.firing[feature] > 0:
            return float(own.activation[feature] / own.firing[feature])
        activation, firing = (
            sum(getattr(s, name)[feature] for s in statistics.values()) for name in ("activation", "firing")
        )
        return float(activation / firing)

    return LayerFeatures(
        layer=sae.layer,
        ids=tuple(ids),
        targets=tuple(target for _, target, _ in chosen),
        encoder=encoder_FD.float(),
        bias=bias_F.float(),
        direction=sae.direction(ids).float().cpu(),
        score=torch.tensor([score for _, _, score in chosen]),
        typical=torch.tensor([typical(feature, target) for feature, target, _ in chosen]),
        # A pre-activation is linear in the residual, so its mean is that of the mean residual.
        baselines={code: (one.mean_residual @ encoder_FD.T + bias_F).float() for code, one in statistics.items()},
        activations={code: one.mean_activation[ids].float() for code, one in statistics.items()},
    )


def _warn(
    layer: int,
    chosen: Sequence[Choice],
    statistics: Mapping[str, LayerStatistics],
    targets: Sequence[str],
    top: int,
    select: str,
) -> None:
    for target in targets:
        count = sum(language == target for _, language, _ in chosen)
        if count < top:
            logger.warning("Layer %d gives %d of %d features for %s.", layer, count, top, target)
    if select == "random":
        return  # nobody expects these to be monolingual
    for feature, target, _ in chosen:
        own = float(statistics[target].mean_activation[feature])
        rival, most = max(
            ((code, float(one.mean_activation[feature])) for code, one in statistics.items() if code != target),
            key=lambda pair: pair[1],
        )
        if most > FIRES_ELSEWHERE * own:
            logger.warning(
                "Layer %d feature %d is not monolingual: mean activation %.3f in %s, but %.3f in %s. Suppressing it "
                "would hurt %s; take fewer features (top) or another layer.",
                *(layer, feature, own, target, most, rival, rival),
            )


def _sha256_of_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of_texts(texts: Mapping[str, Sequence[str]]) -> str:
    digest = hashlib.sha256()
    for code in sorted(texts):
        for text in texts[code]:
            digest.update(f"{code}\0{text}\0".encode())
    return digest.hexdigest()
