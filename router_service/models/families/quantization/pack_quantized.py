"""The format `pack-quantized` of compressed-tensors: INT4 groups, as Kimi K2 Thinking and Kimi K2.5 are published."""

from experts.checkpoint.encodings.packed_int4 import PackedInt4Encoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.int4 import check_bits, read_group

# `weight` reorders inputs while it rounds and leaves them where they were; `group` stores each input's group.
ORDERS = {None: False, False: False, "weight": False, "static": False, "group": True, "dynamic": True, True: True}


def read_pack_quantized(weights: JsonReader) -> PackedInt4Encoding:
    """Read a group's `weights`.

    Raises:
        CheckpointError: a value that is missing, bad, or of a variant that is not supported.
    """
    check_bits(weights, "num_bits", "pack-quantized")
    weights.must_be("type", ["int"])
    weights.must_be("strategy", ["group", "channel"])
    if weights.flag("dynamic", False):
        raise weights.error("dynamic", True, "scales of weights must be stored, it must be false")
    whole_rows = weights.get("strategy") == "channel"
    return PackedInt4Encoding(
        group=None if whole_rows else read_group(weights, "group_size"),
        zeros=not weights.flag("symmetric", True),
        ordered=_ordered(weights),
    )


def _ordered(weights: JsonReader) -> bool:
    order = weights.get("actorder")
    if not isinstance(order, str | bool | None) or order not in ORDERS:
        raise weights.error("actorder", order, "supported: null, 'weight', 'static', 'group', 'dynamic'")
    return ORDERS[order]
