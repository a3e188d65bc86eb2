"""Tokens, roles and limits as data: the file, the authenticator, what is said of a refusal."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from cluster.config import config_from
from cluster.serve.security import security_warnings
from experts.host import watched_files
from router_service.front.auth.authenticator import ANYONE, Authenticator
from router_service.front.auth.refusals import LINES_AT_ONCE, RefusedError
from router_service.front.auth.tokens import Role, new_token, read_tokens
from router_service.front.config import FrontConfig
from tests.support.certificates import replace
from tests.unit.front.commands import ROOT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def line(name: str, role: Role = Role.INFERENCE, **more: object) -> tuple[str, str]:
    token, text = new_token(name, role)
    return token, json.dumps(json.loads(text) | more)


def bearer(token: str) -> list[str]:
    return [f"Bearer {token}"]


def refused(authenticator: Authenticator, authorization: list[str], needed: Role = Role.INFERENCE) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        authenticator.admit(authorization, needed)
    return caught.value


def test_yaml_and_json_lines_say_the_same(tmp_path: Path) -> None:
    entries = [line("ann", max_concurrent_streams=2), line("bob", Role.ADMIN, expires="2030-01-31")]
    lines = write(tmp_path / "lines", *(text for _, text in entries))
    fields = (", ".join(f"{key}: {value}" for key, value in json.loads(text).items()) for _, text in entries)
    listed = write(tmp_path / "list", *(f"- {{{text}}}" for text in fields))
    assert read_tokens(lines) == read_tokens(listed)
    ann, bob = read_tokens(lines)
    assert (ann.caller.name, ann.caller.role, ann.caller.max_concurrent_streams) == ("ann", Role.INFERENCE, 2)
    assert (bob.caller.role, bob.expires) == (Role.ADMIN, datetime(2030, 1, 31, tzinfo=UTC))
    assert ann.expires is None


GOOD = json.loads(line("ann")[1])
WRONG = {
    "not yaml": ("- {", "neither YAML nor JSON lines"),
    "not json": ('{"name": ', "neither YAML nor JSON lines"),
    "a key twice": ("- {name: ann,\n role: admin, role: inference}", "role stands twice, in lines 2 and 2: keep one"),
    "a key twice in JSON": (json.dumps(GOOD)[:-1] + ', "role": "admin"}', "role stands there twice"),
    "no list": ("name: ann", "must be a list"),
    "no object": ("- ann", "entry 1: "),
    "a field too few": (json.dumps({"name": "ann", "role": "admin"}), "entry 1: .*sha256"),
    "an unknown field": (json.dumps(GOOD | {"max_streams": 1}), "entry 1: .*max_streams"),
    "an unknown role": (json.dumps(GOOD | {"role": "root"}), "entry 1: .*root"),
    "a token for its hash": (json.dumps(GOOD | {"sha256": "em_secret"}), "sha256: must be the 64 hex"),
    "a short hash": (json.dumps(GOOD | {"sha256": "ab" * 31}), "sha256: must be the 64 hex"),
    "a limit of none": (json.dumps(GOOD | {"requests_per_minute": 0}), "requests_per_minute: must be at least 1, is 0"),
    "no date": (json.dumps(GOOD | {"expires": "soon"}), "expires: must be a date like 2030-01-31.*'soon'"),
    "no name": (json.dumps(GOOD | {"name": ""}), "name: must be 1 to 64"),
    "a name with a line break": (json.dumps(GOOD | {"name": "a\nb"}), "name: must be 1 to 64"),
    "a name twice": ("\n".join([json.dumps(GOOD), line("ann")[1]]), "name 'ann' stands there twice"),
    "a hash twice": ("\n".join([json.dumps(GOOD), json.dumps(GOOD | {"name": "b"})]), "sha256 .* stands there twice"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_names_entry_and_field(tmp_path: Path, kind: str) -> None:
    content, message = WRONG[kind]
    path = write(tmp_path / "tokens", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tokens(path)
    assert str(caught.value).startswith(f"front.tokens_file: {path}: ")
    assert "em_secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_is_let_in(tmp_path: Path) -> None:
    (ann, ann_line), (bob, bob_line) = line("ann"), line("bob", Role.ADMIN)
    (eve, eve_line) = line("eve", expires=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    (kim, kim_line) = line("kim", expires=(datetime.now(UTC) + timedelta(days=1)).date().isoformat())
    authenticator = Authenticator(
        str(write(tmp_path / "tokens", ann_line, bob_line, eve_line, kim_line)), lambda _: None
    )
    assert authenticator.admit(bearer(ann), Role.INFERENCE).name == "ann"
    assert authenticator.admit([f"bearer  {kim} "], Role.INFERENCE).name == "kim"
    for role in Role:
        assert authenticator.admit(bearer(bob), role).name == "bob"
    low = refused(authenticator, bearer(ann), Role.ADMIN)
    assert (low.code, low.reason, low.name) == (grpc.StatusCode.PERMISSION_DENIED, "role", "ann")
    strangers = {
        "missing": [],
        "malformed": ["Basic YTpi"],
        "unknown": bearer(ann + "x"),
        "expired": bearer(eve),
    }
    for reason, authorization in strangers.items():
        error = refused(authenticator, authorization)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert not any(token in error.message for token in (ann, eve))
    for authorization in ([""], ["Bearer"], ["Bearer  "], [f"Bearer {ann}", f"Bearer {bob}"], [ann]):
        assert refused(authenticator, authorization).reason == "malformed"
    assert refused(authenticator, bearer("\udcff\u20ac")).reason == "unknown"


def test_without_a_file_everyone_may_do_everything() -> None:
    authenticator = Authenticator("", lambda _: None)
    assert authenticator.admit([], Role.ADMIN) is ANYONE


def test_a_changed_file_counts_and_a_broken_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_files, "CHECK_SECONDS", 0.0)
    (ann, ann_line), (bob, bob_line) = line("ann"), line("bob")
    path = write(tmp_path / "tokens", ann_line)
    authenticator = Authenticator(str(path), lambda _: None)
    assert refused(authenticator, bearer(bob)).reason == "unknown"
    replace(path, f"{bob_line}\n".encode())  # as long as before: written in place within a tick it might look the same
    assert authenticator.admit(bearer(bob), Role.INFERENCE).name == "bob"
    assert refused(authenticator, bearer(ann)).reason == "unknown"
    write(path, bob_line, "{")
    for _ in range(3):
        assert authenticator.admit(bearer(bob), Role.INFERENCE).name == "bob"
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "what it said before stays in force: front.tokens_file: " in caplog.text


def test_a_minute_of_requests_may_come_at_once_and_fills_up_evenly(tmp_path: Path) -> None:
    clock = Clock()
    token, text = line("ann", requests_per_minute=3)
    authenticator = Authenticator(str(write(tmp_path / "tokens", text)), lambda _: None, clock)
    for _ in range(3):
        authenticator.admit(bearer(token), Role.INFERENCE)
    clock.now += 5
    error = refused(authenticator, bearer(token))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate")
    assert "requests_per_minute of token ann: 3" in error.message
    assert error.headers == (("retry-after", "15"),)
    clock.now += 15
    authenticator.admit(bearer(token), Role.INFERENCE)
    assert refused(authenticator, bearer(token)).headers == (("retry-after", "20"),)
    clock.now += 3600
    for _ in range(3):
        authenticator.admit(bearer(token), Role.INFERENCE)
    assert refused(authenticator, bearer(token)).reason == "rate"


def test_http_headers_are_authorized_by_the_same_gate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counted: Counter[str] = Counter()
    token, text = line("ann")
    authenticator = Authenticator(str(write(tmp_path / "tokens", text)), lambda reason: counted.update([reason]))
    assert (
        authenticator.authorize({"Authorization": f"Bearer {token}"}, Role.INFERENCE, "10.0.0.9", "/v1").name == "ann"
    )
    for headers, needed, status in (
        ({}, Role.INFERENCE, 401),
        ({"authorization": f"Bearer {token}"}, Role.ADMIN, 403),
    ):
        with pytest.raises(RefusedError) as caught:
            authenticator.authorize(headers, needed, "10.0.0.9", "/cluster")
        assert caught.value.http_status == status
    assert counted == {"missing": 1, "role": 1}
    assert "refused '/cluster' from 10.0.0.9, reason role, token ann: " in caplog.text
    assert token not in caplog.text


def test_a_flood_of_refusals_is_counted_but_not_logged_line_by_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, counted = Clock(), Counter[str]()
    authenticator = Authenticator(
        str(write(tmp_path / "tokens", line("a")[1])), lambda reason: counted.update([reason]), clock
    )
    error = refused(authenticator, [])
    for _ in range(1000):
        authenticator.refusals.note(error, "peer", "m" * 10_000)
    assert counted["missing"] == 1000
    assert len(caplog.records) == LINES_AT_ONCE
    assert max(len(record.getMessage()) for record in caplog.records) < 600
    clock.now += 1
    authenticator.refusals.note(error, "peer", "method")
    assert f"({1000 - LINES_AT_ONCE} more before it were not logged)" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.WARNING


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert not FrontConfig(host=host).tokens_file


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "", "10.0.0.1", "node.example", "localhost.example"])
def test_other_addresses_need_tokens_or_consent(host: str) -> None:
    with pytest.raises(ValueError, match=r"front\.tokens_file is not set.*front\.allow_unauthenticated: true"):
        FrontConfig(host=host)
    FrontConfig(host=host, allow_unauthenticated=True)
    FrontConfig(host=host, tokens_file="tokens")
    with pytest.raises(ValueError, match=r"front\.http_host is .*front\.tokens_file is not set"):
        FrontConfig(http_host=host)
    FrontConfig(http_host=host, http_port=None)
    FrontConfig(http_host=host, tokens_file="tokens")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_cert": "a"}, r"front\.tls_key is not"),
        ({"tls_key": "a"}, r"front\.tls_cert is not"),
        ({"tls_client_ca": "a"}, r"front\.tls_cert is not"),
    ],
)
def test_tls_settings_belong_together(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrontConfig(**settings)  # type: ignore[arg-type]


def expertmesh(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cluster.cli.main", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)


def test_the_command_makes_a_token_for_the_file(tmp_path: Path) -> None:
    done = expertmesh("token", "new", "ann", "--role", "admin")
    assert done.returncode == 0
    token, text = done.stdout.splitlines()
    authenticator = Authenticator(str(write(tmp_path / "tokens", text)), lambda _: None)
    assert authenticator.admit(bearer(token), Role.ADMIN).name == "ann"
    assert token not in text + done.stderr
    assert expertmesh("token", "new", "ann").stdout != done.stdout
    wrong = expertmesh("token", "new", "")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("expertmesh: name: must be 1 to 64 printable characters")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grpc-host", "0.0.0.0"), "front.host is '0.0.0.0', which others can reach"),
        (("--tokens-file", "/nowhere"), "front.tokens_file: /nowhere: cannot be read"),
        (("--tls-cert", "/nowhere", "--tls-key", "/nowhere"), "front.tls_cert: /nowhere: cannot be read"),
        (("--secret-file", "/nowhere"), "cluster.secret_file: /nowhere: cannot be read"),
    ],
)
def test_serve_says_what_is_wrong_before_it_starts(arguments: tuple[str, ...], message: str) -> None:
    done = expertmesh("serve", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_the_demo_says_that_it_has_no_token(tmp_path: Path) -> None:
    config = write(tmp_path / "config.yaml", "front: {tokens_file: tokens}")
    done = expertmesh("demo", "--config", str(config))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "leave front.tls_* and front.tokens_file out" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, None),
        ({"host": "0.0.0.0", "allow_unauthenticated": True}, "may use everything without a token"),
        ({"host": "0.0.0.0", "tokens_file": "t"}, "front.tls_cert is not set"),
        ({"http_host": "0.0.0.0", "tokens_file": "t"}, "front.tls_cert is not set"),
        ({"http_host": "0.0.0.0", "allow_unauthenticated": True}, "reaches 0.0.0.0 may use everything"),
        ({"host": "0.0.0.0", "tokens_file": "t", "tls_cert": "c", "tls_key": "k"}, None),
    ],
)
def test_an_operator_is_warned(settings: dict[str, object], message: str | None) -> None:
    warnings = security_warnings(config_from({"front": settings}))
    assert len(warnings) == (message is not None)
    assert message is None or message in warnings[0]
