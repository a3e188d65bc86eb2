"""Finds out that a text has too many tokens without encoding all of it."""

from router_service.text.tokenizer import Tokenizer

# Texts have about four characters a token, some fewer: a part this long has usually too many if the whole has.
PART_CHARACTERS = 8
# By which the next part is longer; so all parts together are a third longer than the text at most.
GROWTH = 4
# A part's last tokens may be others than in the whole, so it must have clearly more than are allowed.
MARGIN = 8
MARGIN_TOKENS = 64


def has_more_tokens(text: str, most: int, tokenizer: Tokenizer) -> bool:
    """Return whether `text` surely has more than `most` tokens. If not, it may still have a few more.

    It costs at most a third more than to encode `text`, and of a text that is far too long a small part.
    """
    enough = most + most // MARGIN + MARGIN_TOKENS
    part = enough * PART_CHARACTERS
    while part < len(text):
        if len(tokenizer.encode(text[:part], add_special_tokens=False)) > enough:
            return True
        part *= GROWTH
    return False
