"""What the two miniature worlds share: a language, a tokenizer, a small model and its SAEs."""
