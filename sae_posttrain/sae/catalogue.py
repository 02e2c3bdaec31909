"""Published sets of SAEs of the residual stream, by short name."""

# D model width, K dictionary size

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

HOOK = "the residual after the block"


@dataclass(frozen=True)
class Release:
    """One SAE for each of some layers of a model.

    Args:
        name: the short name that `load_sae` and the commands accept.
        repository: hub id of the SAEs.
        base_model: hub id of the model they were trained on.
        layers: 0-based decoder blocks that have an SAE of their output residual.
        d_model: D, the model's width.
        d_sae: K, the number of features; for Gemma Scope as its folders name it.
        k: active features per token; None if their number varies.
        folder: a layer's folder in the repository, with the placeholders `{layer}` and `{l0}`.
        l0: layer → average number of active features, where the folder's name contains it.
    """

    name: str
    repository: str
    base_model: str
    layers: Sequence[int]
    d_model: int
    d_sae: int
    k: int | None = None
    folder: str = ""
    l0: Mapping[int, int] = field(default_factory=dict)

    def source(self, layer: int) -> str:
        """The hub id, and the folder in it, from which `load_sae` reads this layer.

        Raises:
            FileNotFoundError: there is no SAE for this layer.
        """
        if layer not in self.layers:
            raise FileNotFoundError(f"{self.name} has no SAE for layer {layer}; it has layers {span(self.layers)}.")
        inner = self.folder.format(layer=layer, l0=self.l0.get(layer))
        return f"{self.repository}/{inner}" if inner else self.repository


def span(layers: Sequence[int]) -> str:
    return f"{layers[0]}-{layers[-1]}" if isinstance(layers, range) else ", ".join(map(str, layers))


def resolve(source: str, layer: int) -> tuple[str, str]:
    """Replace a short name and `{layer}` in a source, and find the model that its SAEs were trained on, if known."""
    if source in RELEASES:
        return RELEASES[source].source(layer), RELEASES[source].base_model
    repository = "/".join(source.split("/")[:2])
    known = {release.repository: release.base_model for release in RELEASES.values()}
    return source.replace("{layer}", str(layer)), known.get(repository, "")


def _qwen_scope() -> Iterator[Release]:
    """Source: the collection Qwen/qwen-scope."""
    for model, layers, d_model, sets in (
        ("3-1.7B-Base", 28, 2048, ((32, 50), (32, 100))),
        ("3-8B-Base", 36, 4096, ((64, 50), (64, 100))),
        ("3-30B-A3B-Base", 48, 2048, ((32, 50), (128, 100))),
        ("3.5-2B-Base", 24, 2048, ((32, 50), (32, 100))),
        ("3.5-9B-Base", 32, 4096, ((64, 50), (64, 100))),
        ("3.5-27B", 64, 5120, ((80, 50), (80, 100))),
        ("3.5-35B-A3B-Base", 40, 2048, ((32, 50), (128, 100))),
    ):
        for width, k in sets:
            yield Release(
                name=f"qwen-scope-{model.lower()}-w{width}k-l{k}",
                repository=f"Qwen/SAE-Res-Qwen{model}-W{width}K-L0_{k}",
                base_model=f"Qwen/Qwen{model}",
                layers=range(layers),
                d_model=d_model,
                d_sae=width * 1024,
                k=k,
            )


# Each layer and width has several SAEs. This is the one nearest to 100 active features, which sae_lens 6.54 calls
# "canonical".
_GEMMA_SCOPE = (
    (
        *("2b-pt", 2304, "16k", range(26)),
        "105 102 141 59 124 68 70 69 71 73 77 80 82 84 84 78 78 77 74 73 71 70 72 75 73 116",
    ),
    (
        *("2b-pt", 2304, "65k", range(26)),
        "73 121 77 89 89 105 107 107 111 118 128 70 72 75 73 127 128 125 116 115 114 111 116 123 124 93",
    ),
    (
        *("9b-pt", 3584, "16k", range(42)),
        "129 69 67 90 91 77 93 92 99 100 113 118 130 132 67 131 75 73 71 132 68 "
        "129 123 120 114 114 116 118 119 119 120 114 111 114 114 120 120 124 128 131 125 113",
    ),
    (
        *("9b-pt", 3584, "131k", range(42)),
        "41 56 70 103 101 94 120 119 72 75 84 88 96 99 105 103 121 117 113 110 114 "
        "109 105 101 97 96 97 96 98 97 95 92 88 91 89 94 93 96 101 99 94 84",
    ),
    ("9b-it", 3584, "16k", (9, 20, 31), "88 91 76"),
    ("9b-it", 3584, "131k", (9, 20, 31), "121 81 109"),
    ("27b-pt", 4608, "131k", (10, 22, 34), "106 82 72"),
)
_WIDTHS = {"16k": 2**14, "65k": 2**16, "131k": 2**17, "262k": 2**18}


def _gemma_scope() -> Iterator[Release]:
    """Source: google/gemma-scope-*-res, and their list in sae_lens 6.54."""
    for model, d_model, width, layers, l0 in _GEMMA_SCOPE:
        yield Release(
            name=f"gemma-scope-{model}-res-{width}",
            repository=f"google/gemma-scope-{model}-res",
            base_model=f"google/gemma-2-{model.removesuffix('-pt')}",
            layers=layers,
            d_model=d_model,
            d_sae=_WIDTHS[width],
            folder=f"layer_{{layer}}/width_{width}/average_l0_{{l0}}",
            l0=dict(zip(layers, map(int, l0.split()), strict=True)),
        )


def _gemma_scope_2() -> Iterator[Release]:
    """Source: google/gemma-scope-2-*, and their list in sae_lens 6.54."""
    for size, layers, d_model in (
        ("270m", 18, 640),
        ("1b", 26, 1152),
        ("4b", 34, 2560),
        ("12b", 48, 3840),
        ("27b", 62, 5376),
    ):
        for tuning in ("pt", "it"):
            for width in ("16k", "262k"):
                yield Release(
                    name=f"gemma-scope-2-{size}-{tuning}-res-{width}",
                    repository=f"google/gemma-scope-2-{size}-{tuning}",
                    base_model=f"google/gemma-3-{size}{'' if (size, tuning) == ('270m', 'pt') else f'-{tuning}'}",
                    layers=range(layers),
                    d_model=d_model,
                    d_sae=_WIDTHS[width],
                    folder=f"resid_post_all/layer_{{layer}}_width_{width}_l0_big",
                )


def _llama_scope() -> Iterator[Release]:
    """Source: fnlp/Llama3_1-8B-Base-LXR-*."""
    for factor in (8, 32):
        yield Release(
            name=f"llama-scope-8b-base-res-{factor}x",
            repository=f"fnlp/Llama3_1-8B-Base-LXR-{factor}x",
            base_model="meta-llama/Llama-3.1-8B",
            layers=range(32),
            d_model=4096,
            d_sae=4096 * factor,
            folder=f"Llama3_1-8B-Base-L{{layer}}R-{factor}x",
        )


RELEASES: Mapping[str, Release] = {
    release.name: release for release in (*_qwen_scope(), *_gemma_scope(), *_gemma_scope_2(), *_llama_scope())
}
