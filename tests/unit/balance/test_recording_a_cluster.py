"""What a cluster records gives the same advice as the cluster itself."""

import warnings
from dataclasses import replace

from cluster.balance.advice import advise
from cluster.balance.judging.recording import read_recording
from router_service.protocol.balance import BalanceRefusal

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.balancing.actions import BalanceActions
    from tests.unit.balance.simulated_cluster import CONFIG, EXPERTS, LAYERS, SimulatedCluster, steady


def test_the_recording_is_what_advice_is_made_of() -> None:
    cluster = SimulatedCluster(steady(1.2), replace(CONFIG, automatic=False))
    cluster.run(40)
    actions = BalanceActions(cluster.loop)
    text, advice = actions.record(1e9), actions.advise()
    assert isinstance(text, str)
    recorded = read_recording(text)
    assert (recorded.layers, recorded.current.experts) == (tuple(range(LAYERS)), EXPERTS)
    assert advise(recorded.windows, recorded.supply, recorded.current).to_json() == advice
    part = actions.record(recorded.seconds / 2)
    assert isinstance(part, str)
    assert 0 < read_recording(part).seconds < recorded.seconds
    assert cluster.moved == []


def test_a_cluster_that_has_routed_nothing_records_nothing() -> None:
    cluster = SimulatedCluster(steady(1.2), replace(CONFIG, automatic=False))
    cluster.steps = 0
    cluster.run(10)
    actions = BalanceActions(cluster.loop)
    text = actions.record(60.0)
    assert isinstance(text, str)
    assert read_recording(text).seconds == 0
    assert isinstance(actions.advise(), BalanceRefusal)
