"""Decides which replica serves a request, and when.

One core without I/O, made of independent parts, and thin seats around it::

    EndpointSet ▸ balancer.update ─┐
                                   │  replica = endpoint × load (load.py) × limit (limit.py) × health (eject.py)
    acquire ▸ Ticket ▸ queue.py ▸ chooser.py ▸ Lease ▸ (the request runs) ▸ release ▸ the next ticket

    core (no clock, no randomness, no waiting of its own)   balancer replica load limit eject refusal chooser
                                                            queue lease budget
    waiters (who waits, and how)                            waiting
    httpx seam                                              call (decides) transport (asks)
"""
