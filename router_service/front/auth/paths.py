"""Which paths of the Front's HTTP server are the OpenAI API's, and what each of them needs."""

# They reveal no more than the metrics page does, and load balancers, kubelets and scrapers have no token.
OPEN = frozenset(("/healthz", "/health", "/ping", "/version", "/metrics", "/openapi.json"))
TOKENIZER = frozenset(("/tokenize", "/detokenize", "/tokenizer_info"))
OPENAI = (OPEN | TOKENIZER) - {"/healthz"}
# Their responses count among the streams of their caller, as those of gRPC's Generate do.
GENERATING = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses"))


def is_openai(path: str) -> bool:
    """Return whether `path` is the OpenAI API's, whose clients are programs: it may not exist."""
    return path.startswith("/v1/") or path in OPENAI


def is_inference(path: str) -> bool:
    """Return whether `path` generates or reads text, for which the role inference suffices."""
    return path.startswith(("/api/", "/v1/")) or path in TOKENIZER
