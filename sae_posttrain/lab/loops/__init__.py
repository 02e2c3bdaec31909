"""The miniature world in which a model loops now and then, and steered rollouts keep it from that."""
