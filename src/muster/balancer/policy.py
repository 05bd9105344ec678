"""The names that users give the ways of choosing: ``service(policy="least_time")``.

Each name makes a chooser of its own for each service, because some remember. Whatever the policy, a request that names
a session (``affinity``) goes where the session is.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from muster.balancer.affinity import affinity
from muster.balancer.ask import Ask
from muster.balancer.chooser import Chooser, Randomness, RoundRobin, by_size, least_loaded, power_of_two, weighted
from muster.balancer.replica import Replica
from muster.errors import InvalidSpec

DEFAULT_POLICY = "least_time"

POLICIES: Mapping[str, Callable[[], Chooser]] = MappingProxyType(
    {
        "least_time": lambda: by_size,
        "power_of_two": lambda: power_of_two,
        "least_loaded": lambda: least_loaded,
        "round_robin": RoundRobin,
        "weighted": lambda: weighted,
    }
)


def chooser_named(name: str) -> Chooser:
    """Return a new chooser by its name, ready for sessions. Raises ``InvalidSpec`` for a name that is none."""
    if name not in POLICIES:
        raise InvalidSpec("policy", f"{name!r} is none of {', '.join(POLICIES)}")
    return with_sessions(POLICIES[name]())


def with_sessions(chooser: Chooser) -> Chooser:
    """Return a chooser that asks ``affinity`` for requests of a session and ``chooser`` for all others."""

    def choose(candidates: Sequence[Replica], ask: Ask, rng: Randomness) -> Replica:
        return (affinity if ask.affinity else chooser)(candidates, ask, rng)

    return choose
