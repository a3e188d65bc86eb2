"""All targets."""

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    calls,
    chats,
    checkpoints,
    experts,
    frames,
    messages,
    placement_files,
    placements,
    requests,
)

TARGETS: tuple[Target, ...] = tuple(
    target
    for module in (frames, calls, experts, messages, requests, chats, placements, placement_files, checkpoints)
    for target in module.TARGETS
)
BY_NAME = {target.name: target for target in TARGETS}
