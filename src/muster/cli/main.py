"""The ``muster`` command: which commands there are, and how they end.

Exit codes: 0 done; 1 refused or failed, with one line ``error: …`` on standard error (none when the reader of our
output went away); 2 wrong usage; 130 Ctrl-C. A traceback is shown only with ``MUSTER_DEBUG=1``.

Only typer is imported before a command runs: the client, pydantic, rich tables and the server's libraries are loaded
by the command that needs them, so that ``--help`` and shell completion answer at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from muster import __version__
from muster.cli import (
    accounts,
    apply,
    audit,
    broker,
    ca,
    containers,
    deployments,
    events,
    explain,
    files,
    gateway,
    host,
    images,
    lb,
    machines,
    pool,
    queue,
    registry,
    rollout,
    ssh,
    ssh_keys,
    watch,
)
from muster.cli.exec import ExecCommand, execute
from muster.cli.view import note, say
from muster.errors import ApiError, MusterError

app = typer.Typer(
    name="muster",
    help="Elastic GPU-container deployments on your own machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        say(f"muster {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (
    host.up,
    host.server,
    host.ingress,
    host.down,
    apply.apply,
    deployments.ps,
    containers.containers,
    events.events,
    containers.logs,
    explain.explain,
    deployments.scale,
    deployments.stop,
    deployments.delete,
    machines.stock,
    images.images,
    pool.stats,
    audit.audit,
    watch.watch,
    broker.broker,
):
    app.command()(command)
app.command("exec", cls=ExecCommand)(execute)
app.command("ssh", cls=ssh.SshCommand)(ssh.ssh)
app.command("cp")(ssh.cp)
app.add_typer(ssh_keys.ssh_keys)
app.add_typer(files.fs)
app.add_typer(accounts.account)
app.add_typer(accounts.accounts)
app.add_typer(accounts.tokens)
app.add_typer(host.config)
app.add_typer(pool.pool)
app.add_typer(images.image)
app.add_typer(rollout.rollout)
app.add_typer(machines.machines)
app.add_typer(ca.ca)
app.add_typer(registry.registry)
app.add_typer(gateway.gateway)
app.add_typer(lb.lb)
app.add_typer(queue.queue)


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    is_debugging = os.environ.get("MUSTER_DEBUG", "") not in {"", "0"}
    code = 0
    try:
        app(args=list(args), prog_name="muster")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    except MusterError as error:
        if is_debugging:
            raise
        said = error.msg if isinstance(error, ApiError) else str(error)
        for line in said.splitlines() or [type(error).__name__]:
            note(f"error: {line}")
        code = 1
    except Exception as error:
        if is_debugging:
            raise
        note(f"error: {type(error).__name__}: {error} (this is a bug: run again with MUSTER_DEBUG=1 and report it)")
        code = 1
    try:
        if sys.stdout is not None:  # the types do not know that somebody may have closed it before
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit; let it flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code
