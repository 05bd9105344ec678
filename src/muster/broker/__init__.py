"""One queue and lease table per service, for many clients: the balancer's core behind a small protocol.

The data goes straight from a client to a replica; only the choice is made here::

    client: Gate ─▸ seat ─▸ link ═══ ask start report cancel heartbeat ═══▸ server ─▸ desk ─▸ Balancer (the same core)
    client: Gate ◂─ seat ◂─ link ◂══ grant refuse returned heartbeat ═════ server ◂─ desk ◂─ Balancer

    wire        frames (bytes ↔ objects) · messages (objects ↔ values, checked): protocol, said_by_client,
                said_by_broker
    broker      desk (one service's queue, without I/O) · visit (its records) · queue_view (what people see of it)
                server (connections) · services (which are served here)
    client      seat (one service's asks, without I/O) · link (the connection, and its return)

A client never depends on a broker: without one, it chooses by itself (``balancer/waiting.py``).
"""
