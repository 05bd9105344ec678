"""The ingress beside nginx and HAProxy: latency, requests, streams and memory of each, and a thousand addresses.

One backend, one certificate, one machine, one run; the load comes over loopback and shares the cores with everything
else. So requests per second are those of load, proxy and backend together, and the processor time of each request is
the figure to compare. Everything listens on 127.0.0.1, and is ended by its pid in the end.
"""

import os
import tempfile
from pathlib import Path

from rich.table import Table

from benchmarks.ingress import idle, load, many, peers, stream
from benchmarks.ingress.stand import standing
from benchmarks.table import plain_table


def run() -> list[Table]:
    """Measure everything."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as name:
        folder = Path(name)
        with standing(folder / "idle") as stand:  # of its own: a program that was loaded keeps memory to fill first
            caption = _caption(stand.missing)
            memory = idle.table(idle.measure(stand), caption)
        with standing(folder / "load") as stand:
            wrk = peers.found("wrk")
            if wrk is None:
                requests = plain_table("Ingress: requests over kept connections", ("wrk is not installed",))
            else:
                requests = load.table(load.measure(wrk, folder, stand.subjects), caption)
            streams = stream.table(stream.measure(stand), caption)
        starts = many.table(
            *many.measure(folder), "no server; authority, certificate and host key from an earlier start"
        )
    return [requests, streams, memory, starts]


def _caption(missing: tuple[str, ...]) -> str:
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(map(peers.version, ("nginx", "haproxy", "wrk")))
    lacking = f"; without {' and '.join(missing)}, not installed" if missing else ""
    return (
        f"load, proxy and backend share {cores} cores, load {os.getloadavg()[0]:.1f} before; one worker or thread each;"
        f" CPU is the proxy's; median of rounds\n{versions}{lacking}"
    )
