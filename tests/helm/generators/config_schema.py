"""The schema of the chart's `config`: made of the application's dataclasses, so that both refuse the same.

`python -m tests.helm.generators.config_schema` writes it into values.schema.json (make helm-golden); a test compares.
"""

import json
from typing import Any

from cluster.cli.tools.config_table import Key, keys
from tests.helm.chart import CHART

SCHEMA = CHART / "values.schema.json"
Schema = dict[str, Any]

# What stands in the chart's README of each section.
SECTIONS = {
    "model": "Section model: name, dtype, and device, which is cpu or cuda, never auto, since the process that decides "
    "may see no GPU.",
    "weights": "Section weights.",
    "experts": "Section experts; shards is their number, copies how many of them hold each expert.",
    "router": "Section router. Set kv_cache_tokens: a container does not have its node's memory.",
    "front": "Section front without its hosts, ports, TLS and tokens.",
    "balance": "Section balance: when experts are copied and moved.",
    "metrics": "Section metrics.",
    "logging": "Section logging.",
    "tracing": "Section tracing.",
    "cluster": "Section cluster; fronts and routers are their numbers, drain_seconds how long streams may go on when a "
    "pod ends, drain_notice_seconds how long before that load balancers may hear of it.",
}
# Keys that the chart sets itself, from other values or to what its pods need.
CHART_SETS = {
    *("model.checkpoint", "front.host", "front.grpc_port", "front.metrics_host", "front.metrics_port"),
    *("front.http_host", "front.http_port", "front.tls_cert", "front.tls_key", "front.tls_client_ca"),
    *("front.tokens_file", "front.allow_unauthenticated", "cluster.address", "cluster.application"),
    *("cluster.front_resource", "cluster.router_resource", "cluster.shard_resource", "cluster.secret_file"),
}
REQUIRED = {"model": ["device"], "experts": ["shards"], "cluster": ["routers"]}
# Where the chart takes less than the application (a GPU must be asked of Kubernetes, and a pod's end has its time), and
# what the table of keys says in words alone.
FURTHER: dict[str, Schema] = {
    "model.device": {"enum": ["cpu", "cuda"]},
    "router.kv_cache_tokens": {"minimum": 1},
    "tracing.endpoint": {"pattern": "^(https?://[^/@]+:[0-9]+/?)?$"},
    "tracing.service_name": {"minLength": 1},
    "cluster.drain_seconds": {"minimum": 1, "maximum": 3600},
    "cluster.drain_notice_seconds": {"maximum": 300},
}
LIMITS = {
    "at_least": "minimum",
    "over": "exclusiveMinimum",
    "at_most": "maximum",
    "below": "exclusiveMaximum",
}


def key_schema(key: Key) -> Schema:
    """The schema of one key: its type and bounds."""
    names = key.type.split(" or ")
    schema: Schema = {"type": names[0] if len(names) == 1 else names}
    if key.bounds.choices:
        schema["enum"] = list(key.bounds.choices)
    for name, keyword in LIMITS.items():
        if (limit := getattr(key.bounds, name)) is not None:
            schema[keyword] = limit
    schema |= FURTHER.get(key.name, {})
    if "minimum" in schema:
        schema.pop("exclusiveMinimum", None)
    return schema


def config_schema() -> Schema:
    """The schemas of all sections by name."""
    sections: Schema = {}
    for section, description in SECTIONS.items():
        sections[section] = {"type": "object", "description": description, "additionalProperties": False}
        if section in REQUIRED:
            sections[section]["required"] = REQUIRED[section]
        sections[section]["properties"] = {}
    for key in keys():
        section, _, name = key.name.partition(".")
        if key.name not in CHART_SETS:
            sections[section]["properties"][name] = key_schema(key)
    return sections


def schema_text() -> str:
    """The whole file with the schema of `config` made anew."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"]["properties"] = config_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
