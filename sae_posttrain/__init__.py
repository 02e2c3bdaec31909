"""Sparse-autoencoder features as training signals inside the trainers people already use."""

__version__ = "0.1.0.dev0"
