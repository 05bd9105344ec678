"""How long the warm demo takes: everything set up, nothing to download; one run, as `make demo` runs it."""

import signal
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

LIMIT_SECONDS = 150.0
TARGET = "< 60 s"


def run() -> Table:
    """Run the demo once as a child and return the table."""
    table = Table(title="Demo, warm", title_justify="left")
    for column in ("what", "n", "seconds", "exit code", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    began = time.perf_counter()
    child = subprocess.Popen((sys.executable, "-m", "examples.digits.demo"), stdout=subprocess.DEVNULL)
    try:
        code = str(child.wait(LIMIT_SECONDS))
    except subprocess.TimeoutExpired:
        code = f"none after {LIMIT_SECONDS:.0f} s"
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)  # it cleans up, as after Ctrl-C
            child.wait()
    table.add_row("the main job, with four disturbances", "1", f"{time.perf_counter() - began:.1f}", code, TARGET)
    return table


if __name__ == "__main__":
    Console().print(run())
