"""What the demo says of the shard that it kills."""

from cluster.cli.serve.demo_failure import Answer, verdict


def test_the_verdict_counts_the_streams_that_are_as_undisturbed() -> None:
    calm = [Answer([1, 2], 0.02), Answer([3, 4], 0.01)]
    struck = [Answer([1, 2], 0.15), Answer([3, 5], 0.03)]
    assert verdict(calm, struck) == (
        "2 of 2 streams complete, 1 with the same tokens as undisturbed; longest pause 150 ms, undisturbed 20 ms"
    )
