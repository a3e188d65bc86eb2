"""An inspection as aligned text."""

from collections.abc import Sequence
from itertools import pairwise

from cluster.planner.inspected_model import Skipped
from cluster.planner.inspection import CacheGroupSizes, FormSizes, Inspection
from cluster.planner.wire_traffic import LayerTraffic
from cluster.table import size, table


def render(found: Inspection) -> str:
    """Return all sections, the longest facts last."""
    sections = (_facts, _stored, _resident, _cache, _traffic, _dense, _notices)
    return "\n\n".join(text for section in sections if (text := section(found)))


def amount(parameters: float) -> str:
    """Return a number of parameters in the unit that keeps it short."""
    for unit in ("", "K", "M", "B"):
        if abs(parameters) < 1000:
            return f"{parameters:.2f}{unit}" if unit else f"{parameters:.0f}"
        parameters /= 1000
    return f"{parameters:.3f}T"


def _facts(found: Inspection) -> str:
    source = "published configuration, bytes of the published format" if found.published else "checkpoint, headers read"
    counted = found.parameters
    rows = [
        ("model", f"{found.name} ({source})"),
        ("family", f"{found.family}, served in {found.dtype}"),
        ("shape", f"{found.layers} layers, {found.moe_layers} with experts, hidden {found.hidden}"),
        ("text", f"vocabulary {found.vocabulary}, context {found.context} tokens"),
        ("routing", found.routing),
        ("attention", found.attention),
        ("parameters", amount(counted.total)),
        ("active", f"{amount(counted.active)} of a token's pass, embedding table and head included"),
        ("", _without_embedding(found)),
    ]
    return _aligned(rows)


def _without_embedding(found: Inspection) -> str:
    if not found.parameters.embedding:
        return "the same without the embedding table: it is the head too, of which a token reads all"
    return f"{amount(found.active_without_embedding)} without the embedding table, of which a token reads one row"


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{key:<12}{value}" for key, value in rows)


def _stored(found: Inspection) -> str:
    dtypes = sorted({dtype for by_dtype in found.stored.values() for dtype in by_dtype})
    rows = [
        [kind, *(_size_or_none(by_dtype.get(dtype)) for dtype in dtypes), size(sum(by_dtype.values()))]
        for kind, by_dtype in found.stored.items()
    ]
    totals = [sum(by_dtype.get(dtype, 0) for by_dtype in found.stored.values()) for dtype in dtypes]
    rows.append(["all that is loaded", *map(size, totals), size(found.stored_bytes)])
    lines = [f"not loaded: {_skipped(one)}" for one in found.skipped]
    return "\n".join([table(("as stored", *dtypes, "all"), rows), *lines])


def _skipped(one: Skipped) -> str:
    known = [f"{one.tensors} tensors"] if one.tensors else []
    known += [f"{amount(one.parameters)} parameters"] if one.parameters else []
    known += [size(one.bytes)] if one.bytes else ["size known from a checkpoint only"]
    return f"{one.reason}, {', '.join(known)}"


def _resident(found: Inspection) -> str:
    forms = {"packed": found.packed, "dequantized": found.dequantized}
    copied = f", {found.copies} copies" if found.copies > 1 else ""
    header = ("in memory", "weights", "an expert", "an MoE layer", f"a shard of {found.shards}{copied}")
    rows = [_form_row(name, form) for name, form in forms.items() if form is not None]
    rows += [_form_row(f"--quantize {name}", form) for name, form in found.quantized.items()]
    there = f"{size(found.room_bytes)} available here"
    auto = f"takes {found.auto}" if found.auto else f"is refused, the model does not fit{_smaller(found)}"
    lines = [f"weights.resident auto on {found.shards} shards{copied} with {there}: {auto}"]
    if found.copies > 1:
        lines.append(_copies(found))
    if found.packed is None:
        lines.append("nothing is stored in blocks with scales, so nothing can stay packed")
    return "\n".join([table(header, rows), *lines])


def _copies(found: Inspection) -> str:
    forms = {"packed": found.packed, **found.quantized, "dequantized": found.dequantized}
    sizes = [f"{size(found.copies * form.moe_layer * found.moe_layers)} {name}" for name, form in forms.items() if form]
    return f"with copies {found.copies}: the experts take {', '.join(sizes)}; a copy costs memory only"


def _smaller(found: Inspection) -> str:
    return f"; it would with {' or '.join(found.smaller)}" if found.smaller else ""


def _form_row(name: str, form: FormSizes) -> list[str]:
    return [name, size(form.weights), size(form.expert), size(form.moe_layer), size(form.shard)]


def _cache(found: Inspection) -> str:
    cache = found.cache
    rows = [
        ("KV cache", f"{size(cache.per_token)} a token over all layers in {cache.dtype}"),
        *(("", _kept(group)) for group in cache.groups if group.last_tokens is not None),
        ("", f"{size(cache.per_sequence)} a sequence of the whole context, {found.context} tokens"),
        ("", f"{cache.tokens_per_gib} tokens a GiB, in such sequences"),
    ]
    if (uncompressed := cache.uncompressed_per_token) is not None:
        ratio = uncompressed / cache.per_token
        rows.append(
            ("", f"uncompressed keys and values would take {size(uncompressed)} a token, {ratio:.1f} times as much")
        )
    return _aligned(rows)


def _kept(group: CacheGroupSizes) -> str:
    what = "current chunk, at most" if group.kind == "chunk" else "last"
    return f"{len(group.layers)} layers ({numbers(group.layers)}) keep only the {what} {group.last_tokens} tokens"


def numbers(rising: Sequence[int]) -> str:
    """Return numbers in few characters: runs as `0-2`, and what rises evenly as `0, 2, ..., 34`."""
    steps = {after - before for before, after in pairwise(rising)}
    if len(rising) > 3 and len(steps) == 1 and steps != {1}:
        return f"{rising[0]}, {rising[1]}, ..., {rising[-1]}"
    runs: list[list[int]] = []
    for number in rising:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _traffic(found: Inspection) -> str:
    header = (
        f"a token, {found.shards} shards",
        "shards asked",
        "dispatch",
        "combine",
        "both, all MoE layers",
        "exact combine",
    )
    rows = [
        _traffic_row("even routing", found.expected, found.moe_layers),
        _traffic_row("at most", found.most, found.moe_layers),
    ]
    return f"{table(header, rows)}\ndispatch and combine are of one MoE layer; exact combine: experts.exact_combine"


def _traffic_row(name: str, one: LayerTraffic, layers: int) -> list[str]:
    both = (one.dispatch_bytes + one.combine_bytes) * layers
    sizes = (one.dispatch_bytes, one.combine_bytes, both, one.exact_combine_bytes)
    return [name, f"{one.shards_asked:.2f}", *map(size, sizes)]


def _dense(found: Inspection) -> str:
    """What a sparse model loads beside what it uses."""
    form = found.packed or found.dequantized
    name = "packed" if found.packed else found.dtype
    ratio, counted = form.weights / found.dense_bytes, found.parameters
    rows = [
        ["this model", amount(counted.total), amount(counted.active), f"{size(form.weights)} ({name})"],
        ["dense", amount(counted.active), amount(counted.active), f"{size(found.dense_bytes)} ({found.dtype})"],
    ]
    header = ("of equal active size", "parameters", "used by a token", "loads")
    used = f"{counted.active / counted.total:.1%} of its parameters"
    return f"{table(header, rows)}\nthis model loads {ratio:.1f} times as much and uses {used} for a token"


def _notices(found: Inspection) -> str:
    return "\n".join(found.notices)


def _size_or_none(bytes: int | None) -> str:
    return "-" if bytes is None else size(bytes)
