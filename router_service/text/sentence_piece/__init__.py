"""Tokenizers whose vocabulary is a SentencePiece model, tokenizer.model."""
