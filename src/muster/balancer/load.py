"""How busy a replica is: the requests it holds now.

A load metric is an object with ``start``, ``finish`` and ``value``; the chooser compares ``value`` and knows nothing
else, so that another metric (a moving average of latency, learned speed) is another small class. In flight needs no
history, reacts at once, and for requests of one kind on replicas of one kind it is as good as any (Finagle's
``LeastLoaded``).
"""


class InFlight:
    """Counts leases. Never negative: one finish too many is a bug in the caller and says so."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def start(self) -> None:
        """Count a request in."""
        self.value += 1

    def finish(self) -> None:
        """Count a request out."""
        if self.value == 0:
            raise AssertionError("a lease was released twice: the in-flight count would become negative")
        self.value -= 1
