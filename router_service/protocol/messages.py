"""The messages between a Front and a router: msgpack bodies of MESSAGE frames.

Front to router: `Submit`, `Cancel`, `Watch`. Router to Front: `RouterHello` once, then a `StepOutputs` a step and for
each part of a large output, about once a second a `RouterReport`, and while it watches an `Activity` twice a second. A
`stream` is a number that the Front assigns, unique on its connection.
"""

import msgspec
import numpy as np

from experts.transport.frame import Buffer
from router_service.protocol.routing_part import RoutingPart

# A receiver closes the connection when a frame announces more, so a sender fails what would not fit.
MAX_MESSAGE_BYTES = 64 << 20
# Beyond these a logit times or over the penalty may be infinite in float32; both are float32 numbers themselves.
MIN_REPETITION_PENALTY = float(np.float32(1e-6))
MAX_REPETITION_PENALTY = float(np.float32(1e30))


class Structured(msgspec.Struct, frozen=True):
    """What an answer must be: `kind` is json_schema (`text` is the schema), regex, or grammar (Lark, of llguidance)."""

    kind: str
    text: str


class SamplingParams(msgspec.Struct, frozen=True):
    """How to draw tokens, with all defaults filled in.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep all tokens; `logprobs` None returns none, n returns the
    chosen token's and the n best. `stop_token_ids` include the model's end-of-sequence tokens unless `ignore_eos`; none
    of them is drawn before `min_tokens` tokens. `logit_bias` is added to the logits of its tokens before the penalties.
    `prompt_logprobs` n returns log-probabilities of the prompt's tokens, with the n best of each position.
    `structured` rules out what would break its form.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    min_tokens: int = 0
    logit_bias: dict[int, float] = {}
    prompt_logprobs: int | None = None
    structured: Structured | None = None


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A request. `generated` holds tokens that another router has generated: decoding continues after them.

    `generated` counts towards `sampling.max_tokens`, and its positions are routed and reported like the prompt's. The
    routing of the first `reported` positions is left out: another router has reported it.
    `deadline_seconds` is the time left when the frame is sent, None for no deadline. `traced` asks for a `StepSummary`
    about once a second. `return_scores` adds the gate's best scores to the routing that `return_routing` asks for.

    A lower `priority` runs first; `caller` is whose share it is, a token's name or else a client's connection. Only
    requests with the same `cache_salt` share cached prefixes. `fallback` is a `Fallback`'s value, "" for the router's
    own default.
    """

    stream: int
    request_id: str
    prompt: list[int]
    sampling: SamplingParams
    generated: list[int] = []
    deadline_seconds: float | None = None
    return_routing: bool = False
    traced: bool = False
    return_scores: bool = False
    priority: int = 0
    caller: str = ""
    cache_salt: bytes = b""
    reported: int = 0
    fallback: str = ""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End a stream and free its blocks before the next step. The router sends nothing more for it."""

    stream: int


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """A live page is open: send `Activity` for `seconds`. Ends by itself unless renewed."""

    seconds: float


class RouterHello(msgspec.Struct, frozen=True, tag="hello"):
    """A router's limits: `context` counts prompt and generated tokens together, `prompt_limit` the prompt alone.

    `prefix_cache_tokens` is what its prefix cache holds at most; 0 if it has none.
    """

    router: str
    context: int
    prompt_limit: int
    prefix_cache_tokens: int = 0


class Logprob(msgspec.Struct, frozen=True):
    """Natural logarithm of a token's probability under the model, before bias, penalties, temperature and filters."""

    token_id: int
    logprob: float


class TokenLogprobs(msgspec.Struct, frozen=True):
    """The chosen token's log-probability and the best ones, best first."""

    chosen: Logprob
    top: list[Logprob]


class Timings(msgspec.Struct, frozen=True):
    """Seconds of waiting for the first step, of prefill and of decoding; prompt tokens found in the cache."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cached_prompt_tokens: int = 0


class StreamFailure(msgspec.Struct, frozen=True):
    """Why a stream failed: the name of a gRPC status code, and a message."""

    code: str
    message: str


class StepSummary(msgspec.Struct, frozen=True, array_like=True):
    """What one step's all-to-all exchange cost: seconds of the step and of waiting for experts, communication's share
    of the step, the shard whose calls took longest (-1 if none was called), rows sent, tokens computed.
    """

    seconds: float
    exposed_seconds: float
    communication_share: float
    slowest_shard: int
    rows: int
    tokens: int


class StreamOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream's share of a step. The last one has either `finish` ("stop" or "length") or `failure`.

    `prompt_logprobs` has, if requested, an entry for each prompt token that was scored since the last output; the
    prompt's first token has log-probability 0 and no best ones. `routing`, if requested, is of the next positions that
    were computed. Both come in several outputs without tokens for a long prompt; the last routing of it may come with
    the first token. `timings` come with the first output that has a token (a Front that ends the stream at a stop
    string needs them) and with the last. `summary` is of this step, for a traced stream about once a second.
    `degraded` are the indexes of those of `token_ids` whose logits were not the whole model's.
    """

    stream: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs] = []
    # On the wire not `routing`, which had another form.
    routing: RoutingPart | None = msgspec.field(default=None, name="routing_part")
    finish: str | None = None
    failure: StreamFailure | None = None
    timings: Timings | None = None
    summary: StepSummary | None = None
    prompt_logprobs: list[TokenLogprobs] = []
    degraded: list[int] = []


class StepOutputs(msgspec.Struct, frozen=True, tag="step"):
    """Outputs for the streams of one Front: those of one engine step, or a part of a large one."""

    outputs: list[StreamOutput]


class ShardReport(msgspec.Struct, frozen=True):
    """A router's view of one shard, over the last report period where it is a rate.

    `state` is one of connected, unreachable; `link` is finer, see `LinkState`. Times are means per layer call in
    seconds. `copies` is the least number of reachable shards that hold an expert of this one's, itself included, and
    `epoch` is of the placement that the shard serves; None and 0 if not known.
    """

    shard: int
    replica: str
    state: str
    node: str
    pid: int
    experts: int
    weights_bytes: int
    rows_per_second: float
    assignments_per_second: float
    phase_seconds: dict[str, float]
    last_error: str = ""
    link: str = ""
    copies: int | None = None
    epoch: int = 0


class FailoverReport(msgspec.Struct, frozen=True, array_like=True):
    """A layer that other replicas completed: when (seconds of the epoch), the shard that failed (-1 if it is not
    known), why, and the seconds from the fault seen to the layer's answer complete.
    """

    at: float
    shard: int
    reason: str
    seconds: float


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line of a Prometheus exposition."""

    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(msgspec.Struct, frozen=True, array_like=True):
    """A Prometheus metric family with its samples."""

    name: str
    documentation: str
    type: str
    samples: list[Sample]


class RouterReport(msgspec.Struct, frozen=True, tag="report"):
    """Sent about once a second: the cluster as this router sees it, and its metrics.

    Rates and ratios cover the last minute, `step_seconds` of which the router spent in steps; if 0, the ratios are
    meaningless. `ready`: every expert has a connected holder, and what the router is given does not fail whatever it
    is. `leaving`: the router ends when its streams have ended. `failovers` are the latest, oldest first.
    `degraded_tokens` lack an expert or have another one. `unavailable_experts` have no reachable holder by the
    placement of `epoch`.
    """

    router: str
    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    decode_tokens_per_second: float
    overhead_ratio: float
    shard_imbalance: float
    expert_imbalance: float
    shards: list[ShardReport]
    # On the wire it is `families`, as other versions write and read it.
    metric_families: list[MetricFamily] = msgspec.field(name="families")
    ready: bool = True
    leaving: bool = False
    step_seconds: float = 0.0
    failovers: list[FailoverReport] = []
    degraded_tokens: int = 0
    unavailable_experts: int = 0
    epoch: int = 0


class StepTimes(msgspec.Struct, frozen=True, array_like=True):
    """One engine step: prefill, decode or mixed, its tokens, and seconds by stage (`Activity.stages` names them)."""

    kind: str
    tokens: int
    seconds: float
    stages: list[float]


class ShardActivity(msgspec.Struct, frozen=True, array_like=True):
    """What one shard did: token rows, layer calls, and the seconds of all its calls by phase."""

    shard: int
    rows: int
    calls: int
    phase_seconds: dict[str, float]


class Activity(msgspec.Struct, frozen=True, tag="activity"):
    """What a watched router did within the last `seconds`.

    `expert_tokens` has the (token, expert) pairs as uint32, little-endian, [layers, experts]; `layers` are the model's
    MoE layers; `holders` lists the shards of each expert in all of them but those in `special`, which has their own, by
    layer, as of `epoch`. `stage_seconds` adds up all `step_count` steps, `steps` has only the latest of them.
    """

    router: str
    seconds: float
    layers: list[int]
    holders: list[list[int]]
    expert_tokens: bytes
    shards: list[ShardActivity]
    stages: list[str]
    stage_seconds: list[float]
    step_count: int
    steps: list[StepTimes]
    special: dict[int, list[list[int]]] = {}
    epoch: int = 0


ToRouter = Submit | Cancel | Watch
ToFront = RouterHello | StepOutputs | RouterReport | Activity

encode = msgspec.msgpack.Encoder().encode
_to_router = msgspec.msgpack.Decoder(ToRouter)
_to_front = msgspec.msgpack.Decoder(ToFront)


def decode_to_router(payload: Buffer) -> ToRouter:
    """Return a Front's message. Raises `msgspec.DecodeError`: the payload is none."""
    try:
        return _to_router.decode(payload)
    except UnicodeDecodeError as error:  # of text, which msgspec lets through
        raise msgspec.DecodeError(f"text that is not UTF-8: {error}") from error


def decode_to_front(payload: Buffer) -> ToFront:
    """Return a router's message. Raises `msgspec.DecodeError`: the payload is none."""
    try:
        return _to_front.decode(payload)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"text that is not UTF-8: {error}") from error
