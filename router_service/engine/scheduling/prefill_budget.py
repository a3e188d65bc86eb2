"""How many tokens of prompts a step may carry, so that streams that decode do not wait for them too long."""

from router_service.engine.scheduling.step_cost import StepCost, StepShape

# A step that carries decoding streams takes at most so many times what it would take without prompts.
AUTO_FACTOR = 2.5
# A prompt progresses by so many tokens a step at least.
FLOOR_TOKENS = 16
UNLIMITED = 1 << 30
# After so many steps with prompts one goes without: what the streams take by themselves would not be known otherwise.
BASELINE_STEPS = 24


class PrefillBudget:
    """Chooses the chunks by a running estimate of what steps cost.

    Args:
        target_seconds: how long a step with decoding streams may take; 0 for `AUTO_FACTOR` times one without prompts.
    """

    def __init__(self, target_seconds: float = 0.0) -> None:
        self._target_seconds = target_seconds
        self._cost = StepCost()
        self._since_baseline = BASELINE_STEPS

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Take a completed step into account."""
        self._cost.observe(shape, seconds)
        if shape.decode_rows:
            self._since_baseline = self._since_baseline + 1 if shape.prefill_tokens else 0

    def tokens(self, decoding: StepShape, start: int) -> int:
        """Tokens of prompts beside the sequences that decode, the first of them at position `start`.

        Without decoding sequences nobody waits, and the number is unlimited. At most twice the largest chunk that was
        measured lately: the estimate is not trusted far beyond what it rests on. Now and then 0, see `BASELINE_STEPS`.
        """
        if not decoding.decode_rows:
            return UNLIMITED
        if self._since_baseline >= BASELINE_STEPS:
            return 0
        most = max(FLOOR_TOKENS, 2 * self._cost.largest_chunk)
        target = self._target_seconds or AUTO_FACTOR * self._cost.seconds(decoding)
        low, high = FLOOR_TOKENS, most
        while low < high:  # the largest chunk within the target
            middle = (low + high + 1) // 2
            if self._cost.seconds(decoding.with_chunk(middle, start)) <= target:
                low = middle
            else:
                high = middle - 1
        return low
