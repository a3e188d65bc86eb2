"""Lines of both formats, and the limit that keeps one message from filling the log."""

import io
import json
import logging
import subprocess
import sys
from datetime import datetime, timedelta

from experts.host.log import LoggingConfig, current_request, fields, log_handler, step_name
from experts.host.log_limit import MAX_MESSAGES, LogLimit


class Log:
    """A logger of our packages that writes to memory as a process would."""

    def __init__(self, **config: object) -> None:
        self.stream = io.StringIO()
        handler = log_handler(LoggingConfig(**config), "shard 3", "r7", self.stream)  # type: ignore[arg-type]
        self.logger = logging.Logger("experts.tested")
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


def test_a_json_line_has_the_process_and_the_values() -> None:
    log = Log(format="json")
    log.logger.info("moved %d\nrows", 5, extra=fields(layer=2, seconds=0.5))
    (line,) = log.objects()
    assert datetime.now().astimezone() - datetime.fromisoformat(str(line.pop("time"))) < timedelta(seconds=60)
    assert line == {
        "level": "INFO", "logger": "experts.tested", "message": "moved 5\nrows", "role": "shard 3", "replica": "r7",
        "layer": 2, "seconds": 0.5,
    }  # fmt: skip


def test_times_are_utc() -> None:
    log = Log(format="json")
    log.logger.handle(logging.makeLogRecord({"msg": "x", "created": 86400.25, "levelno": logging.INFO}))
    assert log.objects()[0]["time"] == "1970-01-02T00:00:00.250Z"


def test_a_traceback_stays_within_its_json_line() -> None:
    log = Log(format="json")
    try:
        raise KeyError("why")
    except KeyError:
        log.logger.exception("failed")
    (line,) = log.objects()
    assert "KeyError: 'why'" in str(line["exception"])


def test_lines_of_a_request_carry_its_id_unless_they_have_another() -> None:
    log = Log(format="json")
    token = current_request.set("mine")
    try:
        log.logger.info("a")
        log.logger.info("b", extra=fields(request_id="other"))
    finally:
        current_request.reset(token)
    log.logger.info("c")
    assert [line.get("request_id") for line in log.objects()] == ["mine", "other", None]


def test_text_is_one_line_whatever_is_in_it() -> None:
    log = Log(format="text")
    log.logger.warning("an id %s", "a\nb", extra=fields(request_id='x\n2026 ERROR [front r0] "forged"', rows=3))
    (line,) = log.lines()
    assert "WARNING [shard 3 r7] experts.tested: an id a\\nb" in line
    assert line.endswith(' request_id="x\\n2026 ERROR [front r0] \\"forged\\"" rows=3')


def test_auto_is_text_on_a_terminal_alone() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def written(stream: io.StringIO) -> str:
        logger = logging.Logger("tested")
        logger.addHandler(log_handler(LoggingConfig(), "front", "r0", stream))
        logger.info("x")
        return stream.getvalue()

    assert written(io.StringIO()).startswith("{")
    assert written(Terminal()).endswith(" INFO [front r0] tested: x\n")


def test_our_packages_log_from_the_level_on_and_others_from_warning() -> None:
    code = """if True:
        import logging
        from experts.host.log import LoggingConfig, set_up_logging
        logging.basicConfig()
        set_up_logging(LoggingConfig(format="json", level="debug"), "front", "r0")
        for name in ("router_service.front", "a_library"):
            for level in ("debug", "warning"):
                getattr(logging.getLogger(name), level)(f"{name} {level}")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert said == ["router_service.front debug", "router_service.front warning", "a_library warning"]


def test_a_step_is_named_by_the_routers_life_and_a_number() -> None:
    assert step_name((0xAB << 32) + 17) == "000000ab-17"


class Limited:
    """A limit with a clock of its own; `written` are the messages that came through."""

    def __init__(self, burst: int) -> None:
        self.now = 0.0
        self.written: list[str] = []
        self.limit = LogLimit(self._handle, burst, 10.0, lambda: self.now)

    def say(self, message: str, *args: object, level: int = logging.INFO) -> None:
        self._handle(logging.LogRecord("experts", level, "file", 1, message, args, None))

    def _handle(self, record: logging.LogRecord) -> None:
        if self.limit.filter(record):
            self.written.append(record.getMessage())


def test_the_first_lines_of_an_interval_pass_then_a_number() -> None:
    log = Limited(burst=2)
    for number in range(5):
        log.say("request %d", number)
    assert log.written == ["request 0", "request 1"]
    log.now = 10.0
    log.say("request %d", 5)
    assert log.written[2:] == ["held back 3 lines: request %d", "request 5"]


def test_any_later_line_says_what_was_held_back() -> None:
    log = Limited(burst=1)
    for _ in range(4):
        log.say("often")
    log.now = 25.0
    log.say("seldom")
    assert log.written == ["often", "held back 3 lines: often", "seldom"]


def test_messages_and_levels_are_limited_apart() -> None:
    log = Limited(burst=1)
    for level in (logging.INFO, logging.ERROR):
        log.say("one", level=level)
        log.say("two", level=level)
    assert log.written == ["one", "two"] * 2


def test_messages_that_are_never_the_same_take_no_memory() -> None:
    log = Limited(burst=1)
    log.say("held back")
    log.say("held back")
    for number in range(3 * MAX_MESSAGES):
        log.say(f"message {number}")
    assert log.limit.messages <= MAX_MESSAGES
    assert "held back 1 lines: held back" in log.written


def test_the_limit_is_the_handlers() -> None:
    log = Log(format="json", burst=3, interval_seconds=1e-9)
    for _ in range(10):
        log.logger.info("quick")
    assert len(log.lines()) == 10
    log = Log(format="json", burst=3)
    for _ in range(10):
        log.logger.info("quick")
    assert len(log.lines()) == 3
