"""How many requests a token may make: a token bucket for each key, in memory. Pure: the caller brings the time.

A bucket holds at most ``burst`` and fills at ``per_second``; a request takes one out, or is told how long until there
is one. What nobody asked of for a while is full again and then as good as unknown, so it is forgotten: memory is
bounded by the keys of the last ``burst / per_second`` seconds. A restart begins with full buckets.

Source: the token bucket of RFC 2697, as it is used for requests by nginx and Envoy.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    seen_at: float


class TokenBuckets:
    """Buckets by key; ``per_second`` must be above 0."""

    def __init__(self, per_second: float, *, burst: float) -> None:
        self.per_second = per_second
        self._burst = max(1.0, burst)
        self._buckets: dict[str, _Bucket] = {}
        self._swept_at = 0.0

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take one out of a key's bucket and return 0.0, or the seconds until there will be one. ``now`` is monotonic.

        A refusal takes nothing, so whoever goes on asking is served as often as one who waits.
        """
        self._sweep(now)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.level = self._level(bucket, now)
        bucket.seen_at = now
        if bucket.level >= 1.0:
            bucket.level -= 1.0
            return 0.0
        return (1.0 - bucket.level) / self.per_second

    def _level(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.level + (now - bucket.seen_at) * self.per_second)

    def _sweep(self, now: float) -> None:
        """Forget full buckets, once in the time that an empty one takes to fill."""
        if now - self._swept_at < self._burst / self.per_second:
            return
        self._swept_at = now
        self._buckets = {key: each for key, each in self._buckets.items() if self._level(each, now) < self._burst}
