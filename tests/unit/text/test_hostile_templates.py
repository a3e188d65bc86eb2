"""Chat templates that want all time or all memory: each is refused, and what it took is measured in its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from router_service.text.chat import ChatError, ChatTemplate
from router_service.text.chats.conversation import Conversation
from router_service.text.templates.process import TemplateError
from tests.e2e.server import environment, gone

MESSAGES = [{"role": "user", "content": "hello"}]
# The worker's own start, 1 s for compiling or rendering, and the kernel's rounding to whole seconds.
ALLOWED_CPU_SECONDS = 4.0
# The worker may use 512 MiB of addresses more than it starts with.
ALLOWED_BYTES = 600 << 20

# Of processor time; on a busy machine the Front's own clock may be first.
TOO_LONG = "it takes more than 1"
TOO_LARGE = "it needs more than 512 MiB of memory"
# What writes all that memory before it is refused: where that is slow, its time may be over first.
EITHER = f"{TOO_LARGE}|{TOO_LONG}"
BOMBS = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        TOO_LONG,
    ),
    "a range without end": ("{% for a in range(10 ** 15) %}{% endfor %}", "Range too big"),
    "a product that compiling computes": ("{{ 'a' * 100000000000 }}", TOO_LARGE),
    "a product of what is sent": ("{{ messages[0].content * 100000000000 }}", TOO_LARGE),
    "a text that doubles": (
        "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        EITHER,
    ),
    "a block that doubles": (
        "{% set n = namespace(s='a') %}"
        "{% for i in range(60) %}{% set b %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = b %}{% endfor %}",
        EITHER,
    ),
    "a power": ("{{ (messages | length + 9) ** 99999999 % 7 }}", TOO_LONG),
    "a power that compiling computes": ("{{ 10 ** 99999999 % 7 }}", TOO_LONG),
    "a filter": ("{{ messages[0].content | center(100000000000) }}", TOO_LARGE),
    "a format": ("{{ '%099999999999d' % messages | length }}", "needs more than|too big|too long|MemoryError"),
    "bytes of a number": ("{{ (messages | length).to_bytes(100000000000, 'big') }}", TOO_LARGE),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it nests or recurs too deeply"),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        TOO_LONG,
    ),
    "an answer without end": (
        "{% for i in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
        "it writes more than 16777216 characters",
    ),
    "parentheses": ("{{ " + "(" * 100_000 + "1", "it nests or recurs too deeply"),
    "a way out": ("{{ cycler.__init__.__globals__.os.getpid() }}", "unsafe"),
}
MEASURE = """
import json, resource, sys
from router_service.text.chat import ChatError, ChatTemplate
from router_service.text.chats.conversation import Conversation
from router_service.text.templates.process import TemplateError
source, messages = json.load(sys.stdin)
said = None
try:
    template = ChatTemplate(source, {})
    template.render(Conversation(messages))
except (ChatError, TemplateError) as error:
    said = str(error)
template = None  # ends its process, which only then is accounted for
worker = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([said, worker.ru_utime + worker.ru_stime, worker.ru_maxrss * 1024]))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_time_and_memory(name: str) -> None:
    source, expected = BOMBS[name]
    said, seconds, peak = measure(source)
    assert any(part in said for part in expected.split("|")), said
    assert seconds < ALLOWED_CPU_SECONDS
    assert peak < ALLOWED_BYTES


def measure(source: str) -> tuple[str, float, int]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE],
        input=json.dumps([source, MESSAGES]),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    said, seconds, peak = json.loads(done.stdout)
    assert said is not None, "it was rendered"
    print(f"{seconds:.2f} s of processor time, {peak / 2**20:.0f} MiB: {said[:100]}")
    return said, seconds, peak


def test_the_next_messages_are_rendered_after_a_bomb() -> None:
    template = ChatTemplate(
        "{% if messages[0].content == 'x' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
        "{% endfor %}{% endif %}{{ messages[0].content }}",
        {},
    )
    with pytest.raises(ChatError, match="it takes more than 1"):
        template.render(Conversation([{"role": "user", "content": "x"}]))
    assert template.render(Conversation(MESSAGES)) == "hello"


def test_a_template_sees_neither_our_secrets_nor_writes_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERTMESH_SECRET", "not for templates")
    template = ChatTemplate("hello", {})
    process = Path(f"/proc/{template.pid}")
    assert b"not for templates" not in (process / "environ").read_bytes()
    limits = (process / "limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max file size")).split()[3] == "0"


def test_its_process_ends_with_the_template_and_with_the_front() -> None:
    template = ChatTemplate("hello", {})
    pid = template.pid
    assert pid is not None
    del template
    assert not gone({pid})
    script = "import os, time\nfrom router_service.text.chat import ChatTemplate\n"
    script += "t = ChatTemplate('x', {})\nprint(t.pid, flush=True)\nos.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert not gone({int(killed.stdout)})


def test_a_template_that_does_not_compile_leaves_no_process() -> None:
    with pytest.raises(TemplateError, match=r"^line 1: "):
        ChatTemplate("{% if %}", {})
