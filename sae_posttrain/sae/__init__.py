"""Sparse autoencoders: the object and the published formats it is loaded from."""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .activations import JumpReLU, ReLU, TopK
    from .formats import load_sae
    from .model import SparseAutoencoder

# Looked up on first use: the catalogue of published SAEs needs no torch.
_HOME = {
    "JumpReLU": "activations",
    "ReLU": "activations",
    "SparseAutoencoder": "model",
    "TopK": "activations",
    "load_sae": "formats",
}
__all__ = ["JumpReLU", "ReLU", "SparseAutoencoder", "TopK", "load_sae"]
__getattr__ = lazily(__name__, _HOME)
