"""The stages that a step's time is charged to."""

from enum import StrEnum


class Stage(StrEnum):
    """The value is the name in metrics and on the live page. `OTHER` is the time charged to no other stage."""

    SCHEDULE = "schedule"
    ATTENTION = "attention"
    GATE = "gate"
    PACK = "pack"
    WAIT = "wait"
    REDUCE = "reduce"
    SHARED_EXPERT = "shared_expert"
    SAMPLE = "sample"
    OTHER = "other"


STAGES = tuple(Stage)
