"""The flags of `expertmesh serve` and `demo`: each overrides a key of the configuration file."""

import argparse
from pathlib import Path
from typing import Any

from cluster.config import ClusterConfig, config_from, given

# Flag name to (section, key) of the configuration.
FLAGS: dict[str, tuple[str, str]] = {
    "shards": ("experts", "shards"),
    "copies": ("experts", "copies"),
    "most_shards": ("experts", "most_shards"),
    "balance": ("balance", "automatic"),
    "placement": ("balance", "placement_file"),
    "routers": ("cluster", "routers"),
    "fronts": ("cluster", "fronts"),
    "grpc_host": ("front", "host"),
    "grpc_port": ("front", "grpc_port"),
    "metrics_host": ("front", "metrics_host"),
    "metrics_port": ("front", "metrics_port"),
    "http_host": ("front", "http_host"),
    "http_port": ("front", "http_port"),
    "api_key": ("front", "api_key"),
    "chat_template": ("front", "chat_template"),
    "chat_template_kwargs": ("front", "chat_template_kwargs"),
    "reasoning_parser": ("front", "reasoning_parser"),
    "tool_parser": ("front", "tool_parser"),
    "dtype": ("model", "dtype"),
    "device": ("model", "device"),
    "quantize": ("weights", "quantize"),
    "fallback": ("router", "fallback"),
    "address": ("cluster", "address"),
    "name": ("cluster", "application"),
    "tls_cert": ("front", "tls_cert"),
    "tls_key": ("front", "tls_key"),
    "tls_client_ca": ("front", "tls_client_ca"),
    "tokens_file": ("front", "tokens_file"),
    "allow_unauthenticated": ("front", "allow_unauthenticated"),
    "secret_file": ("cluster", "secret_file"),
}
SECURITY_FLAGS = {
    "tls-cert": "PEM: the server's certificate chain; API and live page then speak TLS only",
    "tls-key": "PEM: the key of --tls-cert",
    "tls-client-ca": "PEM: the CA that must have signed clients' certificates (mutual TLS)",
    "tokens-file": "who may call: one line of `expertmesh token new` for each client",
    "secret-file": "shared secret by which the cluster's processes authenticate each other",
}


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a cluster is started; each overrides a key of the configuration file."""
    parser.add_argument("--config", metavar="FILE.yaml", type=Path, help="configuration; flags override it")
    parser.add_argument("--shards", type=int, metavar="N", help="expert shards")
    parser.add_argument(
        "--copies",
        type=int,
        metavar="N",
        help="shards that hold each expert, so that others answer where one fails (default: 1)",
    )
    parser.add_argument("--most-shards", type=int, metavar="N", help="how many `expertmesh scale` may make of them")
    parser.add_argument(
        "--balance", action="store_true", default=None, help="copy and move experts as the traffic's heat does"
    )
    parser.add_argument(
        "--placement", metavar="FILE", help="start from this placement, as `expertmesh rebalance --save` writes it"
    )
    parser.add_argument("--routers", type=int, metavar="N", help="routers that share the shards")
    parser.add_argument("--fronts", type=int, metavar="N", help="processes that serve the API")
    parser.add_argument("--grpc-host", metavar="HOST", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--grpc-port", type=int, metavar="PORT", help="0 picks a free one (default: 50051, or the next free one)"
    )
    parser.add_argument("--metrics-host", metavar="HOST", help="address to bind (default: 127.0.0.1)")
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="0 picks a free one (default: 9090, or the next free one)"
    )
    parser.add_argument("--http-host", metavar="HOST", help="address of HTTP API and live page (default: 127.0.0.1)")
    parser.add_argument(
        "--http-port",
        "--port",
        type=int,
        metavar="PORT",
        help="of HTTP API and live page; 0 picks a free one (default: 8000, or the next free one)",
    )
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--quantize",
        choices=("none", "int8", "int4"),
        help="round experts that are stored in floats when they are loaded: a half or a quarter of the memory",
    )
    parser.add_argument(
        "--fallback",
        choices=("wait", "drop", "next_best", "fail"),
        help="what to do where an expert has no living copy, if the request does not say (default: wait)",
    )
    add_text_flags(parser)
    parser.add_argument("--address", metavar="RAY", help="join this Ray cluster (auto or HOST:PORT), else start one")
    parser.add_argument("--name", metavar="NAME", help="name of the Serve application (default: expertmesh)")


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how chats are read and written; each overrides a key of the configuration file."""
    parser.add_argument("--chat-template", metavar="FILE", help="replaces the checkpoint's chat template")
    parser.add_argument(
        "--chat-template-kwargs", metavar="JSON", help='variables for the template, such as {"enable_thinking": false}'
    )
    parser.add_argument("--reasoning-parser", metavar="NAME", help="takes reasoning out of answers (default: auto)")
    parser.add_argument("--tool-parser", metavar="NAME", help="takes tool calls out of answers (default: auto)")


def add_security_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say who may reach the cluster; each overrides a key of the configuration file."""
    for name, text in SECURITY_FLAGS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=text)
    parser.add_argument(
        "--api-key", metavar="KEY", help="a token that callers must send; ps shows it, so better set EXPERTMESH_API_KEY"
    )
    text = "listen on addresses that other machines can reach, even without a tokens file"
    parser.add_argument("--allow-unauthenticated", action="store_true", default=None, help=text)


def config_of(args: argparse.Namespace) -> ClusterConfig:
    """The configuration of the file and the flags.

    Raises:
        ConfigError: see `load_config`.
    """
    return config_from(overrides_of(args))


def overrides_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the file and the flags set, section to key to value; see `config_of`."""
    overrides: dict[str, dict[str, Any]] = {}
    for flag, (section, key) in FLAGS.items():
        if (value := getattr(args, flag, None)) is not None:
            overrides.setdefault(section, {})[key] = value
    if getattr(args, "checkpoint", None) is not None:
        overrides.setdefault("model", {})["checkpoint"] = args.checkpoint
    return given(args.config, overrides)
