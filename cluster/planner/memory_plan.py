"""How much memory a model's processes need, whether it fits, and which form the weights take. Pure functions."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.table import size
from experts.config import Residence

# Loading peaks at no more than 1.15 times the weights kept (tests/unit/checkpoint/test_memory.py); a fraction, to
# stay exact.
HEADROOM = (23, 20)
MIB = 1 << 20
# Resident memory of an idle replica of a model of 0.2 MB, on a CPU: 361 MiB a shard, 345 MiB a router, rounded up.
PROCESS_BYTES = 384 * MIB
# The idle Front (331 MiB) and Ray's own processes (514 MiB in proportional shares), rounded up. Both measured by
# psutil, Ray 2.60, torch 2.13.
CONTROL_BYTES = 896 * MIB
# What CUDA's context, libraries and Triton's kernels take of a device; an estimate.
DEVICE_PROCESS_BYTES = 1024 * MIB
# A router that cannot hold one long request could not serve it at all.
LEAST_CACHE_TOKENS = 8192


class DoesNotFitError(ValueError):
    """The model needs more memory than there is; the message is one line that says what would help."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model needs in one form. Bytes.

    Args:
        experts: E, in each layer.
        expert_bytes: weights of one expert in all layers.
        router_bytes: weights of one router.
        cache_bytes: the KV cache that one router needs at least.
        process_bytes: what a shard or a router takes before it loads anything.
        control_bytes: what the Front and Ray take.
        copies: how many shards hold each expert.
        moving_bytes: what each shard may load beside its own experts while placements change.
    """

    experts: int
    expert_bytes: int
    router_bytes: int
    cache_bytes: int
    process_bytes: int = PROCESS_BYTES
    control_bytes: int = CONTROL_BYTES
    routers: int = 1
    copies: int = 1
    moving_bytes: int = 0

    def shard(self, shards: int) -> int:
        """The largest of so many shards."""
        weights = most_held(self.experts, shards, self.copies) * self.expert_bytes
        return while_loading(weights) + self.moving_bytes + self.process_bytes

    @property
    def router(self) -> int:
        """One router."""
        return while_loading(self.router_bytes) + self.cache_bytes + self.process_bytes

    @property
    def weights(self) -> int:
        """All weights, those of each copy and each router counted."""
        return self.copies * self.experts * self.expert_bytes + self.routers * self.router_bytes

    def together(self, shards: int) -> int:
        """All processes in one memory."""
        each = self.moving_bytes + self.process_bytes
        shared = while_loading(self.copies * self.experts * self.expert_bytes) + shards * each
        return shared + self.routers * self.router + self.control_bytes

    def largest(self, shards: int) -> int:
        """The largest process, where each has a memory of its own."""
        return max(self.shard(shards), self.router)


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes available: `shared` by all processes, else for each of them. `where` describes them in errors."""

    bytes: int
    shared: bool
    where: str

    def need(self, demand: Demand, shards: int) -> int:
        """Bytes that the model needs of it."""
        return demand.together(shards) if self.shared else demand.largest(shards)

    def holds(self, demand: Demand, shards: int) -> bool:
        """Whether the model fits."""
        return self.need(demand, shards) <= self.bytes


@dataclass(frozen=True, slots=True)
class Forms:
    """The demands in each form that the weights can have; `packed` None where nothing is stored in blocks with scales.

    `others` are further ways to make the model smaller: what to set, and the demand then. `packed_faster`: the backend
    computes from packed weights faster than from dequantized ones, not slower.
    """

    dequantized: Demand
    packed: Demand | None = None
    others: Mapping[str, Demand] = field(default_factory=dict)
    packed_faster: bool = False

    def of(self, form: str) -> Demand:
        """The demand in one form: packed is no different where nothing can be packed."""
        return self.packed if form == "packed" and self.packed is not None else self.dequantized


def while_loading(weights: int) -> int:
    """Bytes that loading needs at its peak."""
    return -(-weights * HEADROOM[0] // HEADROOM[1])


def most_held(experts: int, shards: int, copies: int) -> int:
    """Experts of a layer on the fullest shard of an even placement: the runs of `copies` neighbours, larger ones first.

    See `experts.placement.even_placement`. More shards never make it more.
    """
    run, larger = divmod(experts, shards)
    return copies * run + min(copies, larger)


def smallest_shards(demand: Demand, each: int) -> int | None:
    """The fewest shards that fit where each process has `each` bytes; None where no number does."""
    if demand.router > each:
        return None
    numbers = range(demand.copies, demand.experts + 1)
    place = bisect_left(numbers, True, key=lambda shards: demand.shard(shards) <= each)
    return numbers[place] if place < len(numbers) else None


def choose(resident: Residence, forms: Forms, room: Room, shards: int) -> Residence:
    """Resolve `weights.resident`: auto is packed where that is faster, else dequantized where that fits, else packed.

    Raises:
        DoesNotFitError: the model fits in no form that the setting allows.
    """
    asked = allowed(resident, forms)
    for form in asked:
        if room.holds(forms.of(form), shards):
            return form
    raise DoesNotFitError(refusal(asked[-1], forms, room, shards))


def allowed(resident: Residence, forms: Forms) -> tuple[Residence, ...]:
    """The forms that a setting allows, the fastest first."""
    if resident != "auto":
        return (resident,)
    if forms.packed is None:
        return ("dequantized",)
    return ("packed",) if forms.packed_faster else ("dequantized", "packed")


def refusal(form: str, forms: Forms, room: Room, shards: int) -> str:
    """Why the model does not fit and what would help, in one line."""
    demand = forms.of(form)
    copied = _copied(demand)
    if room.shared:
        needed = f"{_count(shards, 'shard')}{copied}, {_count(demand.routers, 'router')} and the Front need"
    else:
        here = f"a shard of {shards}{copied} needs {size(demand.shard(shards))}"
        needed = f"{here}, a router {size(demand.router)}; the most is"
    return (
        f"the model does not fit: {needed} {size(room.need(demand, shards))} with weights {form} "
        f"({size(demand.weights)} of weights, {HEADROOM[0] / HEADROOM[1] - 1:.0%} more while loading, "
        f"{size(demand.cache_bytes)} of KV cache a router), {size(room.bytes)} are available {room.where}; "
        + "; ".join(_help(form, forms, room, shards))
    )


def refusal_in(message: str) -> str:
    """A process's refusal for lack of memory on its node, from the traceback in Serve's message; else empty.

    Serve would try again a few times, and the node would be no larger.
    """
    mark = f"{DoesNotFitError.__name__}: "
    return next((line.partition(mark)[2].strip() for line in message.splitlines() if mark in line), "")


def _help(form: str, forms: Forms, room: Room, shards: int) -> list[str]:
    demand = forms.of(form)
    fewest = _fitting_shards(demand, room, shards)
    here = "on this machine" if room.shared else "with so much for each"
    advice = [f"--shards {fewest} fits" if fewest else f"no number of shards fits {here}{_copied(demand)}"]
    if (fewer := _fitting_copies(demand, room, shards)) is not None:
        advice.append(f"--copies {fewer} fits")
    if form == "dequantized" and forms.packed is not None and room.holds(forms.packed, shards):
        advice.append(f"weights.resident packed needs {size(room.need(forms.packed, shards))} and fits")
    for setting, other in forms.others.items():
        if room.holds(other, shards):
            advice.append(f"{setting} needs {size(room.need(other, shards))} and fits")
    return [*advice, _joining(demand, room)] if room.shared else advice


def _fitting_shards(demand: Demand, room: Room, shards: int) -> int | None:
    """In one memory only fewer shards help, by what a process takes; of those the most."""
    if not room.shared:
        return smallest_shards(demand, room.bytes)
    return next((fewer for fewer in range(shards - 1, demand.copies - 1, -1) if room.holds(demand, fewer)), None)


def _fitting_copies(demand: Demand, room: Room, shards: int) -> int | None:
    """The most copies of each expert that fit, of those that are fewer than asked for."""
    fewer = range(demand.copies - 1, 0, -1)
    return next((copies for copies in fewer if room.holds(replace(demand, copies=copies), shards)), None)


def _joining(demand: Demand, room: Room) -> str:
    """What a Ray cluster would need."""
    fewest = smallest_shards(demand, room.bytes)
    if fewest is not None:
        return f"joining a Ray cluster (--address) fits from --shards {fewest} on, a node of this size for each process"
    least = max(demand.router, demand.shard(demand.experts))
    return f"joining a Ray cluster (--address) needs a node of at least {size(least)} for each process"


def _copied(demand: Demand) -> str:
    return f" with {demand.copies} copies of each expert" if demand.copies > 1 else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
