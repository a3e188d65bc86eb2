"""Tokenizers whose vocabulary is a tekken.json, as Mistral publishes them."""
