"""Checks of the values in a checkpoint's JSON files: their bounds, and how errors describe them."""

import sys

# Of one dimension: the largest published one, a vocabulary, has 2^18.
MAX_SIZE = 1 << 24
# Of token ids and positions, which travel as 32 bits.
MAX_INT32 = (1 << 31) - 1
MAX_FLOAT = sys.float_info.max


def is_integer(value: object, least: int, most: int) -> bool:
    """Whether it is an integer within bounds; a boolean is none."""
    # bool is a subclass of int, and `true` is no number of layers.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def are_integers(value: object) -> bool:
    """Whether it is a list of integers from 0 on, of 32 bits."""
    return isinstance(value, list) and all(is_integer(item, 0, MAX_INT32) for item in value)


def is_valid_unicode(text: str) -> bool:
    """Whether a string is text: JSON can spell half a surrogate pair, which no library takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_integer(least: int, most: int) -> str:
    """What an error says of an integer: its bounds."""
    return f"it must be a positive integer up to {most}" if least == 1 else f"it must be an integer, {least} to {most}"


def describe_range(least: float, most: float, above: float | None) -> str:
    """What an error adds of a number: its bounds, empty where it has none."""
    if above is not None:
        return f" above {above:g}" + (f" and up to {most:g}" if most < MAX_FLOAT else "")
    return f" from {least:g} to {most:g}" if (least, most) != (-MAX_FLOAT, MAX_FLOAT) else ""
