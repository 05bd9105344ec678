"""The gateway beside nginx and HAProxy: what a hop costs a small request, and what an open stream costs in memory.

    backend.py          what stands behind all of them: 31 bytes, or a stream of events
    client.py           who asks: as fast as it is answered, or so many requests a second
    stand.py peers.py   the backend, and before it everything that is compared
    requests.py idle.py the two measurements

No TLS on either side: the hop is measured, and TLS costs all of them the same. One backend, one machine, one run. The
load comes over loopback and shares the cores with everything else, so the processor time of whoever stands in between
is what compares, and requests per second of one core are what follows from it.
"""
