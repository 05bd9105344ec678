"""`make bench-gateway`: measure the gateway's hop beside nginx and HAProxy, and its memory for idle streams.

python -m benchmarks.gateway            everything, 3 rounds
python -m benchmarks.gateway --quick    one short round
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gateway import idle, requests
from benchmarks.gateway.stand import SUBJECTS, standing
from benchmarks.ingress.peers import version
from benchmarks.table import console, machine, show

QUICK_SECONDS = 2.0


def main() -> int:
    """Run what was asked for."""
    asked = _asked()
    out = console()
    out.print(machine(), highlight=False)
    out.print()
    began = time.monotonic()
    caption = (
        f"load, proxy and backend share {len(os.sched_getaffinity(0))} cores; one worker or thread each where nothing"
        f" else is said; CPU is the proxy's; median of rounds\n{version('nginx')}, {version('haproxy')}; no TLS"
    )
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as name:
        folder = Path(name)
        if "idle" in asked.parts:
            with standing(folder / "idle", idle.SUBJECTS) as subjects:  # of its own: who was loaded has memory to fill
                show(out, idle.table(idle.measure(subjects), caption))
        if "requests" in asked.parts:
            with standing(folder / "load", SUBJECTS) as subjects:
                runs = requests.measure(folder, subjects, asked.rounds, asked.seconds)
            show(out, requests.table(runs, caption))
            show(out, requests.targets(runs))
    out.print(f"{asked.rounds} rounds; {time.monotonic() - began:.0f} s", highlight=False)
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description="Measure the gateway.")
    parser.add_argument("parts", nargs="*", metavar="PART", help="idle, requests (default: both)")
    parser.add_argument("--rounds", type=int, default=requests.ROUNDS, help=f"default: {requests.ROUNDS}")
    parser.add_argument("--seconds", type=float, default=requests.SECONDS, help="length of each run of the client")
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK_SECONDS:g} s each")
    asked = parser.parse_args()
    asked.parts = asked.parts or ["idle", "requests"]
    if unknown := set(asked.parts) - {"idle", "requests"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are idle and requests")
    if asked.quick:
        asked.rounds, asked.seconds = 1, QUICK_SECONDS
    return asked


if __name__ == "__main__":
    sys.exit(main())
