"""One link to a replica of a shard, as a state machine: no socket, no thread and no clock of its own.

All times are seconds of one clock, which the caller hands in; see `experts.links.patience`.
"""

from dataclasses import dataclass, field

from experts.links.state import LinkState


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """When a link is suspected, and when it is given up.

    Args:
        beat_s: how often a shard beats.
        missed_beats: without so many beats the link is SUSPECT.
        dead_s: without a beat for so long it is DEAD.
        hung_s: a shard that beats, but gets on with no computation for so long, is DEAD.
        deaf_s: a shard that beats, but does not answer what it is asked on the same connection, is DEAD: our side of
            the network is broken.
        probation_s: so long a link stays SUSPECT after a late answer; each further one doubles it.
        most_probation_s: up to so long, and without a late answer for as long it begins at `probation_s` again.
    """

    beat_s: float = 0.05
    missed_beats: int = 3
    dead_s: float = 2.0
    hung_s: float = 10.0
    deaf_s: float = 5.0
    probation_s: float = 0.25
    most_probation_s: float = 8.0


@dataclass(slots=True)
class Link:
    """The link in `state`, and `reason` why it is DEAD. Silence counts only after the first beat.

    Without beats a link is PROVEN until it ends: nothing is known of when to expect something.
    """

    limits: LinkLimits
    state: LinkState = LinkState.DIALING
    reason: str = ""
    suspicions: int = 0
    forgiven: int = 0
    draining: bool = False
    _beat_at: float | None = None
    _moved_at: float = 0.0
    _progress: int = 0
    _asked_at: float | None = None
    _late: set[int] = field(default_factory=set)
    _strikes: int = 0
    _struck_at: float = 0.0
    _until: float = 0.0

    def connected(self, now: float) -> None:
        """Both sides have proven themselves on all connections. Probation goes on: a new connection is not a cure."""
        self.state, self.reason, self.draining = LinkState.PROVEN, "", False
        self._beat_at = self._asked_at = None
        self._moved_at, self._progress = now, 0
        self._late.clear()

    def ended(self, reason: str) -> None:
        """A connection has ended, or had to be closed."""
        if self.state.usable:
            self.state, self.reason = LinkState.DEAD, reason

    def beat(self, now: float, busy: bool, progress: int, draining: bool = False) -> None:
        """A beat has come: whether the shard has something to compute, and how far it has got."""
        if not self.state.usable:
            return
        if not busy or progress != self._progress:
            self._moved_at = now
        self._beat_at, self._progress, self.draining = now, progress, draining
        if self.state is LinkState.PROVEN:
            self.state = LinkState.LIVE
        self.tick(now)

    def asked(self, now: float) -> None:
        """The shard was asked for its status."""
        self._asked_at = now if self._asked_at is None else self._asked_at

    def told(self) -> None:
        """It has told its status."""
        self._asked_at = None

    def late(self, now: float, sequence: int) -> None:
        """An ask has been open for longer than usual."""
        if not self.state.usable:
            return
        self._late.add(sequence)
        if now >= self._until:
            if now - self._struck_at > self.limits.most_probation_s:
                self._strikes = 0
            wait = self.limits.probation_s * 2.0**self._strikes
            self._strikes += wait < self.limits.most_probation_s
            self._struck_at = self._until = now + min(wait, self.limits.most_probation_s)
        self._judge(now)

    def settled(self, sequence: int) -> None:
        """An ask that was late has been answered, or nobody waits for it any more."""
        self._late.discard(sequence)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._beat_at is not None and self.state.usable:
            if reason := self._fault(now, self._beat_at):
                self.ended(reason)
            else:
                self._judge(now)

    def _fault(self, now: float, beat_at: float) -> str:
        if now - beat_at >= self.limits.dead_s:
            return "timeout"
        hung = now - self._moved_at >= self.limits.hung_s
        deaf = self._asked_at is not None and now - self._asked_at >= self.limits.deaf_s
        return "timeout" if hung or deaf else ""

    def _judge(self, now: float) -> None:
        if self._beat_at is None:
            return
        silent = now - self._beat_at >= self.limits.missed_beats * self.limits.beat_s
        suspect = silent or bool(self._late) or now < self._until
        if suspect and self.state is LinkState.LIVE:
            self.state, self.suspicions = LinkState.SUSPECT, self.suspicions + 1
        elif not suspect and self.state is LinkState.SUSPECT:
            self.state, self.forgiven = LinkState.LIVE, self.forgiven + 1
