"""Tokenizers whose vocabulary is a tiktoken file."""
