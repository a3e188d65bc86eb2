"""What a step's time is charged to."""

from enum import StrEnum


class Stage(StrEnum):
    """Its value is its name in metrics and on the live page. `OTHER` is what no other stage was charged with."""

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
