"""A token bucket (Turner 1986): a rate limit that allows bursts."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Holds at most `capacity` and fills by `per_second`; full at first. Times are seconds of the caller's clock."""

    capacity: float
    per_second: float
    level: float
    filled_at: float

    @classmethod
    def full(cls, capacity: float, per_second: float, now: float) -> "TokenBucket":
        """Return a full bucket."""
        return cls(capacity, per_second, capacity, now)

    def take(self, now: float) -> float:
        """Take one and return 0; if less than one is left, take nothing and return the seconds until there is one."""
        self._fill(now)
        if self.level < 1:
            return (1 - self.level) / self.per_second
        self.level -= 1
        return 0.0

    def resize(self, capacity: float, per_second: float, now: float) -> None:
        """Change the limits and keep the level, up to the new capacity."""
        self._fill(now)
        self.capacity, self.per_second = capacity, per_second
        self.level = min(self.level, capacity)

    def _fill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.filled_at) * self.per_second)
        self.filled_at = now
