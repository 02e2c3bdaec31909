"""A second miniature world, whose model copies well and now and then falls into a loop."""
