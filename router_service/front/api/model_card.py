"""The facts about a model that GetModel returns and that requests are checked against."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Facts about a model, read from its configuration before the Front starts.

    `context` counts prompt and answer together; a router may allow less. `vocabulary` is the embedding's rows.
    """

    name: str
    family: str
    context: int
    vocabulary: int
    dtype: str
    layers: int
    moe_layers: int
    experts: int
    experts_per_token: int
    total_parameters: int
    active_parameters: int
