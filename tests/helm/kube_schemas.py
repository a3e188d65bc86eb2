"""Every object against the schema of its kind: Kubernetes' own, KubeRay's, and what operators ask of theirs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

SCHEMAS = Path(__file__).parent / "schemas"
VERSION = "1.32"
# Kinds of operators whose definitions are not here, and what a test of ours checks of them instead.
OTHERS = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"}


@cache
def ray_schema(kind: str) -> dict[str, Any]:
    """KubeRay's schema of a kind."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind.lower()}-v1.schema.json").read_text())
    return schema


def filled(value: Any, schema: dict[str, Any]) -> Any:
    """The value with the schema's defaults, as the API server stores it before it looks for what is required."""
    if isinstance(value, list):
        return [filled(one, schema.get("items", {})) for one in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    defaults = {key: one["default"] for key, one in known.items() if "default" in one}
    return {key: filled(one, known.get(key, {})) for key, one in (defaults | value).items()}


def problems(one: dict[str, Any]) -> list[str]:
    """What a cluster would refuse of an object; a kind that nothing is known of is a problem too."""
    kind = one["kind"]
    if one["apiVersion"].startswith("ray.io/"):
        schema = ray_schema(kind)
        found = jsonschema.Draft7Validator(schema).iter_errors(filled(one, schema))
        return [f"{kind} {'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found] + pods(one)
    if kind in OTHERS:
        return []
    try:
        kubernetes_validate.validate(one, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{kind}: {str(error).partition(chr(10))[0] or type(error).__name__}"]
    return []


def pods(service: dict[str, Any]) -> list[str]:
    """The pod templates of a RayService against Kubernetes' own schema of a pod, which is stricter than the CRD."""
    cluster = service["spec"]["rayClusterConfig"]
    found = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        metadata = {"name": "pod", **group["template"]["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": group["template"]["spec"]}
        found += problems(pod)
    return found
