"""What tokenizers of several files share: what is around a prompt, long texts, bytes."""
