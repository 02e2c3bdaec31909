"""Code that both miniature worlds use: a language, a tokenizer, a small model and its SAEs."""
