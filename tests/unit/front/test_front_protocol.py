"""The checked-in stubs, and what the Front's process imports."""

import subprocess
import sys
from pathlib import Path

from router_service.protocol import generate, inference_pb2

CODE = "import sys, {module}; print(*sorted({{'torch', 'ray', 'transformers'}} & set(sys.modules)))"


def test_the_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    fresh = sorted((tmp_path / "router_service" / "protocol").iterdir())
    assert len(fresh) == 9
    for path in fresh:
        assert path.read_text() == (generate.HERE / path.name).read_text(), f"regenerate {path.name}"


def test_the_names_that_clients_are_written_against() -> None:
    fields = {
        "GenerateRequest": [
            *("request_id", "prompt", "tokens", "chat", "sampling", "return_routing", "return_scores", "priority"),
            *("cache_salt", "fallback", "n", "echo", "truncate_prompt_tokens", "add_special_tokens"),
            *("allow_special_tokens", "raw_output", "continuation"),
        ],
        "Continuation": ["token_ids", "text_characters", "reasoning_characters", "argument_characters"],
        "TokenIds": ["ids"],
        "Chat": [
            *("messages", "tools", "tool_choice", "parallel_tool_calls", "documents", "template_kwargs"),
            *("add_generation_prompt", "continue_final_message"),
        ],
        "Message": ["role", "content", "parts", "name", "tool_calls", "tool_call_id", "reasoning_content"],
        "ContentPart": ["type", "text"],
        "ToolCall": ["id", "name", "arguments"],
        "ToolChoice": ["mode", "name"],
        "ToolCallDelta": ["index", "id", "name", "arguments"],
        "GenerateResponse": [
            *("request_id", "token_ids", "text", "logprobs", "routing", "finish_reason", "usage"),
            *("prompt_logprobs", "degraded_token_indexes", "index", "reasoning", "tool_calls", "stop_text"),
            *("stop_token_id", "prompt_text", "prompt_token_ids"),
        ],
        "Usage": [
            *("prompt_tokens", "cached_prompt_tokens", "generated_tokens", "queue_seconds", "prefill_seconds"),
            *("decode_seconds", "degraded_tokens", "reasoning_tokens"),
        ],
        "TokenRouting": ["layers"],
        "LayerRouting": ["layer", "experts", "weights", "shards", "scored_experts", "scores"],
    }
    for name, expected in fields.items():
        assert [field.name for field in inference_pb2.DESCRIPTOR.message_types_by_name[name].fields] == expected
    assert inference_pb2.Fallback.items() == [
        ("FALLBACK_UNSPECIFIED", 0),
        ("WAIT", 1),
        ("DROP", 2),
        ("NEXT_BEST", 3),
        ("FAIL", 4),
    ]
    assert inference_pb2.FinishReason.items() == [
        ("FINISH_REASON_UNSPECIFIED", 0),
        ("STOP", 1),
        ("LENGTH", 2),
        ("CANCELLED", 3),
        ("TOOL_CALLS", 4),
    ]


def test_the_front_needs_neither_torch_nor_ray() -> None:
    commands = (f"cluster.cli.client.{name}_command" for name in ("generate", "rebalance", "scale", "advise"))
    for module in ("router_service.front.server", "router_service.client.client", *commands):
        run = subprocess.run([sys.executable, "-c", CODE.format(module=module)], capture_output=True, cwd=generate.ROOT)
        assert (run.returncode, run.stdout.strip(), run.stderr) == (0, b"", b"")
