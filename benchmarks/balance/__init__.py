"""The balancer beside nginx and HAProxy: the same requests, at the same moments, on the same replicas.

A **trace** says when each request is meant to arrive, how much work it is and how much memory it takes. A **shape**
says what the traces of one table have in common: fleet, load, distribution, clients. A **run** is one trace through
one balancer, before replicas which wait instead of working. A **figure** compares runs of the same traces.

    trace.py fleet.py shapes.py   what is asked of the balancers: pure, seeded
    oracle.py                     what a central queue that knows more would do with the same trace, in virtual time
    replica.py                    the replicas, in a process of their own
    load.py sdk_load.py           the clients: raw HTTP/1.1 to a proxy, or the SDK
    peers.py                      nginx and HAProxy as a competent operator would set them
    brokers.py failover.py        one queue for several clients, and what becomes of it when it is killed
    stage.py churn.py             one run: start all of it, let the trace through, end it by pid
    hop.py                        requests without work: what a balancer itself costs
    figures.py report.py          runs to percentiles, ratios and intervals; those to tables and JSON

Requests are sent at the moments that the trace names, whether or not earlier ones have been answered, and are timed
from that moment, so that a balancer which falls behind cannot hide it. Everything listens on 127.0.0.1.
"""
