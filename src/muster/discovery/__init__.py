"""From container events to a registry that never lies.

::

    StoreFeed (our own server) ──┐
    StreamFeed (a Muster's API) ─┼─▸ Watcher ─▸ registry        Claims ◂─▸ registry (heartbeats, who publishes what)
    PollFeed (AutoDL's API)  ────┘

A feed says who is ready; ``watcher.py`` publishes it, ``claims.py`` keeps several watchers out of each other's way.
"""
