"""Sparse autoencoders: the object and the published formats it is loaded from."""

from .formats import load_sae
from .model import SparseAutoencoder, TopK

__all__ = ["SparseAutoencoder", "TopK", "load_sae"]
