"""What the configurations of INT4 formats have in common: the number of bits, and the size of a group."""

from experts.checkpoint.json_reader import JsonReader

WHOLE_ROW = -1


def check_bits(written: JsonReader, key: str, form: str) -> None:
    """Check that codes have four bits.

    Raises:
        CheckpointError: they have another number, or it is not said.
    """
    bits = written.get(key)
    if bits != 4 or isinstance(bits, bool):
        raise written.error(key, bits, f"only 4 bits of {form} are supported: take a 4-bit or an FP8 checkpoint")


def read_group(written: JsonReader, *keys: str, default: int | None = None) -> int | None:
    """Read how many inputs share a scale; None is a whole row.

    Raises:
        CheckpointError: it is neither a positive number nor -1, or missing without a default.
    """
    key = written.key_of(*keys)
    group = written.integer(key, default=default, least=WHOLE_ROW)
    if not group:
        raise written.error(key, group, "it must be a number of inputs, or -1 for a whole row")
    return None if group == WHOLE_ROW else group
