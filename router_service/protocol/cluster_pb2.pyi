from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RebalanceRequest(_message.Message):
    __slots__ = ("dry_run", "placement", "pin")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    placement: str
    pin: bool
    def __init__(self, dry_run: _Optional[bool] = ..., placement: _Optional[str] = ..., pin: _Optional[bool] = ...) -> None: ...

class RebalanceReply(_message.Message):
    __slots__ = ("result", "reason", "plan", "placement")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    result: str
    reason: str
    plan: BalancePlan
    placement: str
    def __init__(self, result: _Optional[str] = ..., reason: _Optional[str] = ..., plan: _Optional[_Union[BalancePlan, _Mapping]] = ..., placement: _Optional[str] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("shards",)
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    shards: int
    def __init__(self, shards: _Optional[int] = ...) -> None: ...

class ScaleReply(_message.Message):
    __slots__ = ("before", "shards")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    before: int
    shards: int
    def __init__(self, before: _Optional[int] = ..., shards: _Optional[int] = ...) -> None: ...

class AdviseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdviseReply(_message.Message):
    __slots__ = ("advice",)
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    advice: str
    def __init__(self, advice: _Optional[str] = ...) -> None: ...

class RecordRoutingRequest(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class RecordRoutingReply(_message.Message):
    __slots__ = ("recording",)
    RECORDING_FIELD_NUMBER: _ClassVar[int]
    recording: str
    def __init__(self, recording: _Optional[str] = ...) -> None: ...

class BalancePlan(_message.Message):
    __slots__ = ("epoch", "state", "reason", "copies_added", "copies_dropped", "bytes", "began", "ended", "predicted_gain", "measured_gain", "shards_ready", "shards_loading")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COPIES_ADDED_FIELD_NUMBER: _ClassVar[int]
    COPIES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BEGAN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_GAIN_FIELD_NUMBER: _ClassVar[int]
    MEASURED_GAIN_FIELD_NUMBER: _ClassVar[int]
    SHARDS_READY_FIELD_NUMBER: _ClassVar[int]
    SHARDS_LOADING_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    state: str
    reason: str
    copies_added: int
    copies_dropped: int
    bytes: int
    began: float
    ended: float
    predicted_gain: float
    measured_gain: float
    shards_ready: int
    shards_loading: int
    def __init__(self, epoch: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., copies_added: _Optional[int] = ..., copies_dropped: _Optional[int] = ..., bytes: _Optional[int] = ..., began: _Optional[float] = ..., ended: _Optional[float] = ..., predicted_gain: _Optional[float] = ..., measured_gain: _Optional[float] = ..., shards_ready: _Optional[int] = ..., shards_loading: _Optional[int] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("epoch", "automatic", "pinned", "last_run", "last_success", "result", "reason", "plans", "copies_moved", "shards", "most_shards", "interval")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AUTOMATIC_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    LAST_RUN_FIELD_NUMBER: _ClassVar[int]
    LAST_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    COPIES_MOVED_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    MOST_SHARDS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    automatic: bool
    pinned: bool
    last_run: float
    last_success: float
    result: str
    reason: str
    plans: _containers.RepeatedCompositeFieldContainer[BalancePlan]
    copies_moved: int
    shards: int
    most_shards: int
    interval: float
    def __init__(self, epoch: _Optional[int] = ..., automatic: _Optional[bool] = ..., pinned: _Optional[bool] = ..., last_run: _Optional[float] = ..., last_success: _Optional[float] = ..., result: _Optional[str] = ..., reason: _Optional[str] = ..., plans: _Optional[_Iterable[_Union[BalancePlan, _Mapping]]] = ..., copies_moved: _Optional[int] = ..., shards: _Optional[int] = ..., most_shards: _Optional[int] = ..., interval: _Optional[float] = ...) -> None: ...

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterState(_message.Message):
    __slots__ = ("shards", "routers", "model", "balance")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    routers: _containers.RepeatedCompositeFieldContainer[Router]
    model: str
    balance: Balance
    def __init__(self, shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., routers: _Optional[_Iterable[_Union[Router, _Mapping]]] = ..., model: _Optional[str] = ..., balance: _Optional[_Union[Balance, _Mapping]] = ...) -> None: ...

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
