"""An HTTP front door with the balancer behind it, for callers that cannot use the SDK.

    bytes ▸ connection ─▸ reception (route, key, limits: pure) ─▸ gate.acquire ─▸ forward ─▸ upstream ▸ replica
            connection ◂─────────────────── answer, streamed ◂─────────────────── forward ◂─ upstream ◂ replica

    port              what the two halves tell each other: Passage, Refused, Told, NeedsBody, Record
    reception         config routing models keys ledger services: for which service a request is, and as whom it may
                      pass
    data plane        protocol connection visit upload ▸ forward exchange attempt answers ▸ pools request upstream:
                      carries it to a replica, or elsewhere
    for people        access_log metrics

One process per core accepts from one address (``SO_REUSEPORT``); all of them ask one broker, or each would have a queue
of its own (``processes/gateway.py``).
"""
