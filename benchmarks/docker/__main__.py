"""`make bench-docker`: real containers on a private daemon, against Docker itself. Figures, never tests.

python -m benchmarks.docker                  all but ``ways``
python -m benchmarks.docker overhead reuse   some of them
python -m benchmarks.docker --list           what there is
"""

import argparse
import contextlib
import inspect
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks.docker import death, fetch, hundred, overhead, reuse, ways
from benchmarks.table import console, machine, show
from tests.docker import gpu, images
from tests.docker.daemon import Daemon, close_abandoned
from tests.docker.fixtures import BASH

USUAL = (overhead, reuse, fetch, death, hundred)
BENCHMARKS: dict[str, ModuleType] = {
    module.__name__.removeprefix("benchmarks.docker."): module for module in (*USUAL, ways)
}


def main() -> int:
    """Run what was asked for; 1 when a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docker", description="Measure real containers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks to run (default: all)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and what each measures")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    out = console()
    if asked.list:
        for name, module in BENCHMARKS.items():
            out.print(f"{name:10} {(inspect.getdoc(module) or '').partition(chr(10))[0]}", highlight=False)
        return 0
    if os.geteuid() != 0:
        parser.error("a Docker daemon of its own needs root")
    close_abandoned()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-")))
        options = ways.runtimes(scratch)
        daemon = stack.enter_context(Daemon(path=[gpu.write_hook(scratch)], options=options))
        daemon.load(images.bash(scratch), BASH)
        said = daemon.docker("version", "--format", "Docker {{.Server.Version}}, command line {{.Client.Version}}")
        out.print(f"{machine()}; {said}", highlight=False)
        out.print()
        broken = [name for name in asked.names or list(BENCHMARKS)[: len(USUAL)] if not measure(out, daemon, name)]
    return 1 if broken else 0


def measure(out: Console, daemon: Daemon, name: str) -> bool:
    """Run one benchmark and print its tables; tell whether it came to its end."""
    try:
        for table in BENCHMARKS[name].run(daemon):
            show(out, table)
    except Exception:  # noqa: BLE001  the figures of the others are still wanted
        out.print(f"{name} broke:", highlight=False)
        traceback.print_exc()
        return False
    finally:
        daemon.clear()
    return True


if __name__ == "__main__":
    sys.exit(main())
