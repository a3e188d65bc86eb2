"""What the registry keeps of routers' reports, and for how long."""

from cluster.balance.judging.board import MOST_LOADS, BalanceBoard
from experts.demand import RoutedLoad
from tests.support.routed_traffic import demand, report, zipf

ROUTED = demand(zipf(1, 4, 1.0), steps=1)


class Board:
    def __init__(self) -> None:
        self.now, self.routers = 0.0, {"a", "b"}
        self.board = BalanceBoard(lambda: self.routers, lambda: self.now)

    def note(self, router: str = "a", keep: float = 60.0) -> RoutedLoad:
        load = report(ROUTED, router)
        self.board.note_load(load, keep)
        return load

    def numbers(self, since: int = 0) -> list[int]:
        return [one.number for one in self.board.loads(since)]


def test_reports_come_in_order_with_their_age_and_from_a_number_on() -> None:
    board = Board()
    first = board.note("a")
    board.now = 3.0
    board.note("b")
    board.now = 5.0
    found = board.board.loads()
    assert [(one.number, one.age_s, one.load.router) for one in found] == [(1, 5.0, "a"), (2, 2.0, "b")]
    assert found[0].load is first
    assert board.numbers(1) == [2]
    assert board.numbers(2) == []
    assert board.numbers(9) == [1, 2]  # seen of a registry that has died since


def test_reports_are_forgotten_in_time_and_with_their_router() -> None:
    board = Board()
    board.note("a", keep=10.0)
    board.note("b", keep=20.0)
    board.now = 10.0
    assert board.numbers() == [2]
    board.routers = {"a"}
    assert board.numbers() == []


def test_of_each_router_a_bounded_number_is_kept() -> None:
    board = Board()
    for _ in range(MOST_LOADS + 5):
        board.note("a")
    board.note("b")
    assert len(board.numbers()) == MOST_LOADS + 1
    assert board.numbers()[0] == 6
