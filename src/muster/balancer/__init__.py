"""Decides which replica serves a request, and when.

One core without I/O, made of independent parts, and thin seats around it::

    EndpointSet ▸ balancer.update ─┐
                                   │  replica = endpoint × load, speed, limit, memory, health, refusals
    acquire ▸ Ticket ▸ queue ▸ eligible ▸ chooser ▸ Lease ▸ (the request runs) ▸ release ▸ the next ticket
                                   ▴                                               │
                                   └── learning: cost, demand, limit, scores ◂─────┘

    what is asked                     ask ticket
    who waits, who is refused         queue admission forecast
    which replicas may be used        eligible replica eject refusal
    which of them                     chooser affinity policy explore
    what is learned                   learning cost cost_* regression demand limit opening
                                      trial report
    what it holds and shows           balancer lease statistics
    waiters (who waits, and how)      waiting
    seams                             options call (decide) · transport hold hedge requests_adapter explicit (ask) ·
                                      pools budget faults lifetime subscription
    for people                        statistics_json metrics status

No part of the core has a clock, chance or I/O of its own, so simulations run it as it is.
"""
