from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterState(_message.Message):
    __slots__ = ("shards", "routers", "model")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    routers: _containers.RepeatedCompositeFieldContainer[Router]
    model: str
    def __init__(self, shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., routers: _Optional[_Iterable[_Union[Router, _Mapping]]] = ..., model: _Optional[str] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("shard", "replica", "state", "node", "pid", "experts", "weights_bytes", "rows_per_second", "assignments_per_second", "phase_seconds", "imbalance", "last_error", "copies", "epoch")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PHASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    shard: int
    replica: str
    state: str
    node: str
    pid: int
    experts: int
    weights_bytes: int
    rows_per_second: float
    assignments_per_second: float
    phase_seconds: PhaseSeconds
    imbalance: float
    last_error: str
    copies: int
    epoch: int
    def __init__(self, shard: _Optional[int] = ..., replica: _Optional[str] = ..., state: _Optional[str] = ..., node: _Optional[str] = ..., pid: _Optional[int] = ..., experts: _Optional[int] = ..., weights_bytes: _Optional[int] = ..., rows_per_second: _Optional[float] = ..., assignments_per_second: _Optional[float] = ..., phase_seconds: _Optional[_Union[PhaseSeconds, _Mapping]] = ..., imbalance: _Optional[float] = ..., last_error: _Optional[str] = ..., copies: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class PhaseSeconds(_message.Message):
    __slots__ = ("pack", "dispatch", "queue", "compute", "combine", "reduce")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    COMBINE_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    pack: float
    dispatch: float
    queue: float
    compute: float
    combine: float
    reduce: float
    def __init__(self, pack: _Optional[float] = ..., dispatch: _Optional[float] = ..., queue: _Optional[float] = ..., compute: _Optional[float] = ..., combine: _Optional[float] = ..., reduce: _Optional[float] = ...) -> None: ...

class Router(_message.Message):
    __slots__ = ("router", "running", "waiting", "kv_blocks_used", "kv_blocks_total", "decode_tokens_per_second", "overhead_ratio", "shard_imbalance", "expert_imbalance", "outstanding", "ready")
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_RATIO_FIELD_NUMBER: _ClassVar[int]
    SHARD_IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    EXPERT_IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    router: str
    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    decode_tokens_per_second: float
    overhead_ratio: float
    shard_imbalance: float
    expert_imbalance: float
    outstanding: int
    ready: bool
    def __init__(self, router: _Optional[str] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., kv_blocks_total: _Optional[int] = ..., decode_tokens_per_second: _Optional[float] = ..., overhead_ratio: _Optional[float] = ..., shard_imbalance: _Optional[float] = ..., expert_imbalance: _Optional[float] = ..., outstanding: _Optional[int] = ..., ready: _Optional[bool] = ...) -> None: ...
