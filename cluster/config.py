"""The whole configuration of a cluster: one YAML file, composed of the dataclasses that stand beside their owners."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from experts.config import ExpertsConfig, WeightsConfig
from experts.host.log import LoggingConfig
from experts.host.unique_keys import DuplicateKeyError, load_yaml
from router_service.config import EngineConfig, MetricsConfig
from router_service.front.config import FrontConfig
from router_service.front.telemetry.tracing_config import TracingConfig

BUNDLED = Path(__file__).parent / "bundled"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What to serve.

    Args:
        checkpoint: directory of a Hugging Face checkpoint; empty serves the bundled model
            [-; a directory, or empty]
        name: what clients and metrics call the model; empty takes the directory's name [-; any]
        dtype: what is computed in; auto is the checkpoint's [-; one of auto, bfloat16, float16, float32]
        device: what computes; auto is a GPU where there is one [-; one of auto, cpu, cuda]
    """

    checkpoint: str = ""
    name: str = ""
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bfloat16", "float16", "float32"):
            raise ValueError(f"model.dtype is {self.dtype!r}, it must be auto, bfloat16, float16 or float32")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"model.device is {self.device!r}, it must be auto, cpu or cuda")

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return Path(self.checkpoint).expanduser().resolve() if self.checkpoint else BUNDLED

    @property
    def served_name(self) -> str:
        """The model's name."""
        return self.name or ("expertmesh-bundled" if not self.checkpoint else self.path.name)


@dataclass(frozen=True, slots=True)
class PlacementConfig:
    """How the control plane starts and watches the processes.

    Args:
        fronts: processes that serve the API, each for all; on one machine they share `front.grpc_port`
            [processes; at least 1]
        routers: routers that share the shards [processes; at least 1]
        address: a running Ray cluster to join; empty starts one on this machine [-; empty, auto or HOST:PORT]
        application: name of the Serve application; two clusters on one Ray need two names [-; any]
        ready_timeout_seconds: how long starting may take before it is given up [seconds; over 0]
        drain_seconds: how long streams in flight may go on when a process is to end: after SIGTERM, before an update
            [seconds; over 0]
        drain_notice_seconds: how long before that health is NOT_SERVING and new requests are still taken, so that load
            balancers see it [seconds; at least 0]
        stuck_seconds: a step or a question that takes longer counts as hung, and its process is replaced
            [seconds; over 0]
        gpus_per_process: GPUs of each shard and router where the device is cuda [GPUs; over 0]
        memory_limit_gib: memory that may be used of each node, or of each GPU; 0 is what is available [GiB; at least 0]
        front_resource: a Ray resource of which the Front takes one, so that only nodes that have it run it; empty
            leaves the place to Ray [-; any]
        router_resource: the same for each router [-; any]
        shard_resource: the same for each shard [-; any]
        secret_file: what processes prove to each other, on one line and while it is rotated the previous one on a
            second; on every node, read again when it changes; empty takes EXPERTMESH_SECRET, or draws one [-; a path]
    """

    fronts: int = 1
    routers: int = 1
    address: str = ""
    application: str = "expertmesh"
    ready_timeout_seconds: float = 600.0
    drain_seconds: float = 30.0
    drain_notice_seconds: float = 0.0
    stuck_seconds: float = 120.0
    gpus_per_process: float = 1.0
    memory_limit_gib: float = 0.0
    front_resource: str = ""
    router_resource: str = ""
    shard_resource: str = ""
    secret_file: str = ""

    def __post_init__(self) -> None:
        for name in ("fronts", "routers"):
            if getattr(self, name) < 1:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}, it must be at least 1")
        for name in ("ready_timeout_seconds", "drain_seconds", "stuck_seconds", "gpus_per_process"):
            if not getattr(self, name) > 0:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}, it must be positive")
        for name in ("memory_limit_gib", "drain_notice_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}, it must not be negative")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Everything: the sections of the YAML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    router: EngineConfig = field(default_factory=EngineConfig)
    front: FrontConfig = field(default_factory=FrontConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    cluster: PlacementConfig = field(default_factory=PlacementConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the YAML file."""
        return asdict(self)


def load_config(file: Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> ClusterConfig:
    """Read the file, if one is given, and let `overrides` (section to key to value) win.

    Raises:
        ConfigError: no such file, not YAML, an unknown section or key, a key twice, a value of a wrong type or out of
            its bounds.
    """
    data = _read_yaml(file) if file is not None else {}
    merged = {section: dict(values or {}) for section, values in data.items()}
    for section, values in overrides.items():
        merged.setdefault(section, {}).update(values)
    return config_from(merged)


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
    if not isinstance(data or {}, dict) or not all(isinstance(v or {}, dict) for v in (data or {}).values()):
        raise ConfigError(f"{file}: must hold sections ({', '.join(f.name for f in fields(ClusterConfig))}) of keys")
    return data or {}


def _build(kind: Any, data: Mapping[str, Any], where: str) -> object:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown key {where}{key}, known: {', '.join(known)}")
    try:
        return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in data.items()})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _value(kind: Any, value: Any, where: str) -> object:
    if is_dataclass(kind):
        return _build(kind, value, f"{where}.")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where} is {value!r}: {error}") from error
