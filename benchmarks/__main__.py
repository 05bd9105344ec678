"""`make bench`: run the benchmarks and print one table for each. Figures, never tests: no time makes this fail.

python -m benchmarks              all of them
python -m benchmarks start demo   some of them
python -m benchmarks --list       what there is
"""

import argparse
import inspect
import sys
import traceback
from types import ModuleType

from benchmarks import (
    api,
    broker,
    containers,
    control_plane,
    demo,
    discovery,
    ingress,
    placement,
    propagation,
    sdk_overhead,
    start,
)
from benchmarks.table import console, machine, show

BENCHMARKS: dict[str, ModuleType] = {
    module.__name__.removeprefix("benchmarks."): module
    for module in (
        placement,
        sdk_overhead,
        start,
        containers,
        propagation,
        discovery,
        control_plane,
        api,
        broker,
        ingress,
        demo,
    )
}


def main() -> int:
    """Run what was asked for; 1 when a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and print tables of figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks to run (default: all)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and what each measures")
    parser.add_argument("--big", action="store_true", help="also what takes minutes: 10,000 containers")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    out = console()
    if asked.list:
        for name, module in BENCHMARKS.items():
            out.print(f"{name:14} {(inspect.getdoc(module) or '').partition(chr(10))[0]}", highlight=False)
        return 0
    out.print(machine(), highlight=False)
    out.print()
    broken = 0
    for name in asked.names or BENCHMARKS:
        try:
            found = control_plane.run(is_big=asked.big) if name == "control_plane" else BENCHMARKS[name].run()
        except Exception:  # noqa: BLE001  the figures of the others are still wanted
            broken += 1
            out.print(f"{name} broke:", highlight=False)
            traceback.print_exc()
            continue
        for table in found if isinstance(found, list) else [found]:
            show(out, table)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
