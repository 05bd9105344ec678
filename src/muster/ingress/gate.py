"""The gate before one container: who may enter, and what goes on behind it.

In: the route of a container, replaced whenever it changes. Out: ``enter``, a ``Visit`` or why not, and ``load``, what
the server is told. Refusal and count are one step of one thread: after a gate was told to refuse, no visit begins, so
"refusing, nothing in flight" is final.

A visit is one request, or one raw connection, from before its first byte goes to the container until the last one has
come back; whoever holds it calls ``leave`` on every path. The limit holds for each container port by itself, as it
does in the balancer: who asks for metrics on the second port is not in the way of requests on the first.
"""

from dataclasses import dataclass

from muster.model.routes import ContainerLoad, PortRoute, Refusal, Route, RouteState


@dataclass(slots=True)
class PortCounts:
    """What went through one container port since the ingress started; ``seconds`` are of visits that ended well."""

    in_flight: int = 0
    served: int = 0
    failed: int = 0
    refused: int = 0
    seconds: float = 0.0


class Gate:
    """One container's gate. Not safe for threads: it belongs to the event loop."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.counts: dict[int, PortCounts] = {port.container_port: PortCounts() for port in route.ports}
        self.refusals: dict[Refusal, int] = dict.fromkeys(Refusal, 0)
        self._visits: set[Visit] = set()
        self._heard_at = 0.0
        self._longest_seconds = 0.0

    def port(self, container_port: int) -> PortRoute | None:
        """Return the route of a container port as it is now."""
        return next((each for each in self.route.ports if each.container_port == container_port), None)

    def enter(self, container_port: int, now: float) -> "Visit | Refusal":
        """Begin a visit, or say why not; ``now`` is of the loop's clock."""
        counts = self.counts.setdefault(container_port, PortCounts())
        refusal = self._refusal(container_port, counts)
        if refusal is not None:
            return self._refuse(counts, refusal)
        visit = Visit(self, counts, now)
        counts.in_flight += 1
        self._visits.add(visit)
        return visit

    def load(self, now: float) -> ContainerLoad:
        """Return what the server is to know."""
        waiting = [each.begun_at for each in self._visits if each.is_waiting]
        quiet = now - max(self._heard_at, min(waiting)) if waiting else 0.0
        every = self.counts.values()
        return ContainerLoad(
            container_uuid=self.route.container_uuid,
            is_refusing=self.route.state is not RouteState.ACCEPT,
            in_flight=sum(each.in_flight for each in every),
            served=sum(each.served for each in every),
            refused=sum(each.refused for each in every),
            failed=sum(each.failed for each in every),
            quiet_seconds=max(0.0, quiet),
            longest_seconds=self._longest_seconds,
        )

    def _refusal(self, container_port: int, counts: PortCounts) -> Refusal | None:
        if self.route.state is not RouteState.ACCEPT:
            return Refusal.DRAINING if self.route.state is RouteState.REFUSE else Refusal.ENDED
        port = self.port(container_port)
        if port is None or port.backend is None:
            return Refusal.NOT_STARTED
        limit = self.route.concurrency
        return Refusal.OVER_CAPACITY if limit is not None and counts.in_flight >= limit else None

    def _refuse(self, counts: PortCounts, refusal: Refusal) -> Refusal:
        counts.refused += 1
        self.refusals[refusal] += 1
        return refusal

    def _leave(self, visit: "Visit", counts: PortCounts) -> None:
        self._visits.discard(visit)
        counts.in_flight -= 1

    def _heard(self, visit: "Visit", now: float) -> None:
        self._heard_at = now
        if visit.is_waiting:
            self._longest_seconds = max(self._longest_seconds, now - visit.begun_at)


class Visit:
    """One request or raw connection behind a gate."""

    __slots__ = ("_counts", "_gate", "_is_over", "begun_at", "is_waiting")

    def __init__(self, gate: Gate, counts: PortCounts, now: float) -> None:
        self._gate = gate
        self._counts = counts
        self._is_over = False
        self.begun_at = now
        self.is_waiting = True
        """Until the container is first heard of. An open stream owes nobody a byte at any time, a request does."""

    def heard(self, now: float) -> None:
        """Note that bytes came from the container, or, for a raw connection, that it was made."""
        self._gate._heard(self, now)  # noqa: SLF001  one thing in two classes
        self.is_waiting = False

    def refused(self, refusal: Refusal) -> None:
        """End it: nothing could be sent."""
        if not self._is_over:
            self._end()
            self._gate._refuse(self._counts, refusal)  # noqa: SLF001

    def leave(self, now: float, *, failed: bool = False) -> None:
        """End it; the first call counts."""
        if self._is_over:
            return
        self._end()
        if failed:
            self._counts.failed += 1
        else:
            self._counts.served += 1
            self._counts.seconds += now - self.begun_at

    def _end(self) -> None:
        self._is_over = True
        self._gate._leave(self, self._counts)  # noqa: SLF001
