"""The configuration of a cluster: one YAML file, composed of the dataclasses that stand beside their owners."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import yaml

from cluster.balance.config import BalanceConfig
from experts.config import ExpertsConfig, WeightsConfig
from experts.host.bounds import FilePath, Seconds, SecondsOrZero, Text, check_settings, setting
from experts.host.log import LoggingConfig
from experts.host.shown import shown
from experts.host.unique_keys import DuplicateKeyError, load_yaml
from experts.host.user_path import user_path
from router_service.config import EngineConfig, MetricsConfig
from router_service.front.config import FrontConfig
from router_service.front.telemetry.tracing_config import TracingConfig

API_KEY_VARIABLE = "EXPERTMESH_API_KEY"
# Stands where a secret was.
HIDDEN = "(hidden)"
BUNDLED = Path(__file__).parent / "bundled"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What to serve.

    Args:
        checkpoint: directory of a Hugging Face checkpoint; empty serves the bundled model
        name: what clients and metrics call the model; empty takes the directory's name
        dtype: dtype of the computation; auto is the checkpoint's
        device: device of the computation; auto is a GPU where there is one
    """

    checkpoint: Annotated[str, setting(description="a directory, or empty")] = ""
    name: Text = ""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        check_settings("model", self)

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return user_path(self.checkpoint, "model.checkpoint") if self.checkpoint else BUNDLED

    @property
    def served_name(self) -> str:
        """The model's name."""
        return self.name or ("expertmesh-bundled" if not self.checkpoint else self.path.name)


@dataclass(frozen=True, slots=True)
class ControlPlaneConfig:
    """How the control plane starts and watches the processes.

    Args:
        fronts: processes that serve the API, each to all routers; on one machine they share `front.grpc_port`
        routers: routers that share the shards
        address: a running Ray cluster to join; empty starts one on this machine
        application: name of the Serve application; two clusters on one Ray need two names
        ready_timeout_seconds: how long starting may take before it fails
        drain_seconds: how long streams in flight may go on when a process is to end: after SIGTERM, before an update
        drain_notice_seconds: how long before that health is NOT_SERVING and new requests are still taken, so that load
            balancers see it
        stuck_seconds: a layer of a step that takes longer, or a shard's computation that makes no progress for longer,
            counts as hung, and its process is replaced
        gpus_per_process: GPUs of each shard and router where the device is cuda
        memory_limit_gib: memory that may be used of each node, or of each GPU; 0 is what is available
        front_resource: a Ray resource of which the Front takes one, so that only nodes that have it run it; empty
            leaves the place to Ray
        router_resource: the same for each router
        shard_resource: the same for each shard
        surge: whether an update in place starts each new process before the old one ends, where the application is
            deployed by Serve's YAML: `auto` where Ray has free CPUs, GPUs and named resources for it and the nodes have
            free memory when the update begins; `on` always, and what finds no room waits while the old one serves;
            `off` never, so that the only copy of a part ends first. Fronts then share their port with newer ones
        secret_file: the secret by which processes authenticate each other, on one line, and during a rotation the
            previous one on a second; on every node, read again when it changes; empty takes EXPERTMESH_SECRET, or draws
            one
    """

    fronts: Annotated[int, setting("processes", ge=1)] = 1
    routers: Annotated[int, setting("processes", ge=1)] = 1
    address: Annotated[str, setting(description="empty, auto or HOST:PORT")] = ""
    application: Text = "expertmesh"
    ready_timeout_seconds: Seconds = 600.0
    drain_seconds: Seconds = 30.0
    drain_notice_seconds: SecondsOrZero = 0.0
    stuck_seconds: Seconds = 120.0
    gpus_per_process: Annotated[float, setting("GPUs", gt=0)] = 1.0
    memory_limit_gib: Annotated[float, setting("GiB", ge=0)] = 0.0
    front_resource: Text = ""
    router_resource: Text = ""
    shard_resource: Text = ""
    surge: Literal["auto", "on", "off"] = "auto"
    secret_file: FilePath = ""

    def __post_init__(self) -> None:
        check_settings("cluster", self)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Everything: the sections of the YAML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    router: EngineConfig = field(default_factory=EngineConfig)
    front: FrontConfig = field(default_factory=FrontConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    cluster: ControlPlaneConfig = field(default_factory=ControlPlaneConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the YAML file, without the API's key: this is printed, and handed to every process."""
        data = asdict(self)
        if self.front.api_key:
            data["front"]["api_key"] = HIDDEN
        return data


def load_config(file: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> ClusterConfig:
    """Read the file, if one is given, and let `overrides` (section to key to value) win.

    Raises:
        ConfigError: no such file, not YAML, an unknown section or key, a key twice, a value of a wrong type or out of
            its bounds.
    """
    return config_from(given(file, overrides))


def given(file: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the file, `overrides` and the environment set, section to key to value; see `load_config`."""
    data = _read_yaml(file) if file is not None else {}
    merged = {section: dict(values or {}) for section, values in data.items()}
    for section, values in overrides.items():  # flags win over the file
        merged.setdefault(section, {}).update(values)
    return with_environment(merged)


def with_environment(data: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Add what the environment sets and `data` does not: the API's key."""
    made, front = dict(data), dict(data.get("front") or {})
    if (key := environment.get(API_KEY_VARIABLE)) and not front.get("api_key"):
        made["front"] = front | {"api_key": key}
    return made


def config_from(data: Mapping[str, Any]) -> ClusterConfig:
    """Build a configuration from plain data; see `load_config`."""
    config = _build(ClusterConfig, data, "")
    assert isinstance(config, ClusterConfig)
    return config


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        data = load_yaml(file.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        raise ConfigError(f"{file}: {error}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    # An empty file, or a section without keys, is null in YAML and means defaults.
    sections = _keyed(file, {} if data is None else data)
    return {name: {} if keys is None else _keyed(file, keys) for name, keys in sections.items()}


def _keyed(file: Path, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: must hold sections ({', '.join(f.name for f in fields(ClusterConfig))}) of keys")
    for key in data:
        if not isinstance(key, str):  # YAML reads numbers, dates and null there too
            raise ConfigError(f"{file}: the key {shown(key)} is no text: quote it, or write the key that was meant")
    return data


def _build(kind: Any, data: Mapping[str, Any], where: str) -> object:
    hints = get_type_hints(kind, include_extras=True)
    known = [f.name for f in fields(kind)]
    for key in data:
        if key not in known:
            raise ConfigError(_unknown(key, known, where))
    try:
        return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in data.items()})
    except ConfigError:  # of a nested section, which has named its key
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _unknown(key: str, known: list[str], where: str) -> str:
    # Keys with a unit of time ended in _s before 0.2.
    if key.endswith("_s") and (new := f"{key}econds") in known:
        return f"{where}{key} is called {where}{new} now"
    return f"unknown key {where}{key}, known: {', '.join(known)}"


def _value(kind: Any, value: Any, where: str) -> object:
    if is_dataclass(kind):
        return _build(kind, value, f"{where}.")
    try:
        return msgspec.convert(value, kind)  # 600 becomes 600.0
    except msgspec.ValidationError:
        return value  # the section refuses it, with its name and its bounds
