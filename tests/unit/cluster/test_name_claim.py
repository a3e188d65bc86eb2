"""The claim to an application's name: one process holds it, also of two that ask at the same moment."""

import warnings
from typing import Any

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes import name_claim
    from cluster.processes.name_claim import NameClaimedError, claimed_name


class Actor:
    """The handle of a claim, which is its own class and its own method."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.owner = self

    def remote(self) -> str:
        return str(self.body.owner())


class FakeRay:
    """Named actors; `raced` is one that another process creates between our look and ours."""

    exceptions = ray.exceptions

    def __init__(self) -> None:
        self.named: dict[str, Actor] = {}
        self.killed: list[Actor] = []
        self.raced: Actor | None = None

    def remote(self, kind: Any) -> Any:
        fake = self

        class Options:
            def options(self, name: str, **_: Any) -> "Options":
                if name in fake.named:
                    raise ray.exceptions.ActorAlreadyExistsError(f"{name} is taken")
                self.name = name
                return self

            def remote(self, owner: str) -> Actor:
                made = Actor(kind(owner))
                fake.named[self.name] = fake.raced or made
                return made

        return Options()

    def get_actor(self, name: str, **_: Any) -> Actor:
        return self.named[name]

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)
        self.named = {name: one for name, one in self.named.items() if one is not actor}

    def get(self, answer: str, timeout: float) -> str:
        return f"{answer}" if timeout else ""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(name_claim, "ray", made)
    monkeypatch.setattr(ray, "get", made.get)
    return made


def test_one_holds_it_at_a_time(fake: FakeRay) -> None:
    with claimed_name("a"), claimed_name("b"):
        with pytest.raises(NameClaimedError, match="another process is starting or ending a"), claimed_name("a"):
            pytest.fail("two hold it")
        assert sorted(fake.named) == ["expertmesh-claim-a", "expertmesh-claim-b"]
    assert fake.named == {}
    with claimed_name("a"):
        pass


def test_of_two_at_the_same_moment_one_is_refused(fake: FakeRay) -> None:
    """Ray looks whether the name is taken before it creates the actor: both may pass."""
    fake.raced = Actor(name_claim.Claim("the other"))
    with pytest.raises(NameClaimedError), claimed_name("a"):
        pytest.fail("two hold it")
    assert fake.named == {"expertmesh-claim-a": fake.raced}, "the other's is left"


def test_it_is_given_back_whatever_happens(fake: FakeRay) -> None:
    with pytest.raises(ZeroDivisionError), claimed_name("a"):
        raise ZeroDivisionError
    assert len(fake.killed) == 1
    assert fake.named == {}
