"""Look into a model with its features: where they fire, what they do around a switch, and how well an SAE fits."""
