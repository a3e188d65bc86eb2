"""The first token: generated with the defaults, kept across upgrades, and such as the application reads."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_service.front.auth.tokens import Role, find_token, read_tokens
from tests.helm.chart import CHART, Object, helm, helm_binary, named, ray_pods, rendered, serve_config, template
from tests.helm.kube_api import KubeApi, kube_api

SECRET = "mesh-expertmesh-tokens"
OPEN = ("tokens.enabled=false", "tokens.allowUnauthenticated=true")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApi]:
    with kube_api(tmp_path) as server:
        yield server


def deploy(api: KubeApi, action: str, *flags: str) -> str:
    """Run `helm install` or `helm upgrade` with the default values and these flags; return what it prints."""
    fixed = (helm_binary(), action, "mesh", str(CHART), "--namespace", "serving", "--disable-openapi-validation")
    command = [*fixed, "--kubeconfig", str(api.kubeconfig), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def decoded(data: dict[str, str], key: str) -> str:
    return base64.b64decode(data[key]).decode()


def test_the_defaults_lint_and_render() -> None:
    done = helm("lint", str(CHART), "--strict")
    assert done.returncode == 0, done.stdout
    assert "tokens_file" in serve_config(rendered())["applications"][0]["args"]["front"]


def test_the_application_takes_the_token(tmp_path: Path) -> None:
    data = named(rendered(), "Secret", SECRET)["data"]
    file = tmp_path / "tokens"
    file.write_text(decoded(data, "tokens"))
    tokens = read_tokens(file)
    found = find_token(tokens, decoded(data, "first-token"))
    assert found is not None
    assert (len(tokens), found.caller.name, found.caller.role) == (1, "first", Role.INFERENCE)


def test_each_release_has_a_token_of_its_own() -> None:
    drawn = {
        named(rendered(sets=(f"rayLogs.backupCount={n}",)), "Secret", SECRET)["data"]["first-token"] for n in (1, 2)
    }
    assert len(drawn) == 2
    assert all(len(base64.b64decode(one)) == len("em_") + 48 for one in drawn)


def mounted_keys(objects: list[Object]) -> list[str]:
    volumes = ray_pods(objects)["front"]["spec"]["volumes"]
    return [item["key"] for one in volumes if one["name"] == "tokens" for item in one["secret"]["items"]]


def test_no_pod_has_the_token_itself() -> None:
    assert mounted_keys(rendered()) == ["tokens"]
    done = template(sets=('tokens.key="first-token"',))
    assert done.returncode != 0
    assert "tokens.key" in done.stderr


def test_an_upgrade_keeps_what_was_drawn(api: KubeApi) -> None:
    deploy(api, "install")
    secrets = {name: dict(api.secret(name)) for name in (SECRET, "mesh-expertmesh-secret")}
    added = json.dumps({"name": "second", "sha256": "0" * 64, "role": "admin"})
    secrets[SECRET]["tokens"] = base64.b64encode(f"{decoded(secrets[SECRET], 'tokens')}{added}\n".encode()).decode()
    api.secret(SECRET).update(secrets[SECRET])
    deploy(api, "upgrade", "--set", "rayLogs.backupCount=7")
    assert {name: api.secret(name) for name in secrets} == secrets


def test_a_key_of_another_name_has_the_same_token(api: KubeApi) -> None:
    deploy(api, "install")
    before = dict(api.secret(SECRET))
    deploy(api, "upgrade", "--set", "tokens.key=file")
    assert api.secret(SECRET) == {"first-token": before["first-token"], "file": before["tokens"]}


def test_a_token_is_drawn_where_tokens_were_given_before(api: KubeApi) -> None:
    deploy(api, "install", "--set", "tokens.value=[]")
    assert api.secret(SECRET).keys() == {"tokens"}
    deploy(api, "upgrade", "--set", "tokens.value=")
    assert json.loads(decoded(api.secret(SECRET), "tokens"))["name"] == "first"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "get secret mesh-expertmesh-tokens --output jsonpath='{.data.first-token}' | base64 --decode"),
        (("--set", ",".join(OPEN)), "WARNING: tokens are off"),
        (("--set", "tokens.existingSecret=mine"), "a token of the Secret mine"),
        (("--set", "tokens.value=[]"), "a token of tokens.value"),
    ],
)
def test_the_notes_say_how_to_get_in(api: KubeApi, flags: tuple[str, ...], said: str) -> None:
    assert said in deploy(api, "install", *flags)


def test_tokens_are_turned_off_by_two_values_together() -> None:
    objects = rendered(sets=OPEN)
    assert SECRET not in [one["metadata"]["name"] for one in objects]
    assert serve_config(objects)["applications"][0]["args"]["front"]["allow_unauthenticated"] is True
    for value, said in zip(OPEN, ("tokens.enabled is false", "but tokens.enabled is true, too"), strict=True):
        done = template(sets=(value,))
        assert done.returncode != 0
        assert said in done.stderr
