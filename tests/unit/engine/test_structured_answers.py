"""Answers of a hot model to random schemas and regular expressions, judged by other libraries."""

from router_service.protocol.messages import Structured
from tests.support.random_schemas import random_regex, random_schema
from tests.support.structured import Answers, bundled_mesh, check_answer, schema

SCHEMAS, REGEXES = 60, 20
# Of 1 to 40 tokens mostly.
MAX_TOKENS = 400


def test_every_answer_has_its_form() -> None:
    """All of them: `python -m tests.benchmarks.bench_structured --rows valid`."""
    asked = [schema(random_schema(seed)) for seed in range(SCHEMAS)]
    asked += [Structured("regex", random_regex(seed)) for seed in range(REGEXES)]
    with bundled_mesh(max_sequences=len(asked), kv_cache_tokens=32768) as mesh:
        answers = Answers(mesh)
        events = answers.ask_all(asked, max_tokens=MAX_TOKENS)
        for structured, own in zip(asked, events, strict=True):
            assert own[-1].finish == "stop"
            check_answer(structured, answers.text(own))
