"""The miniature world in which a model switches language, and SASFT keeps it from that."""
