"""Sparse autoencoders: the object and the published formats it is loaded from."""

from .activations import JumpReLU, ReLU, TopK
from .formats import load_sae
from .model import SparseAutoencoder

__all__ = ["JumpReLU", "ReLU", "SparseAutoencoder", "TopK", "load_sae"]
