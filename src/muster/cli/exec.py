"""``exec``: a command in a container, with this terminal or these pipes as its own.

Words and options stand as with ``docker exec`` and ``kubectl exec``, whichever a person is used to: options before or
right after the container; what follows ``--``, or begins with another word, is the command, options and all.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from muster.cli import terminal
from muster.cli.connection import connected
from muster.cli.names import find_writer

if TYPE_CHECKING:
    from muster.client import Client

SHELL = ("sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash; fi; exec sh")
"""Not a login shell: Debian's /etc/profile would forget the image's PATH, and with it its Python."""


class ExecCommand(TyperCommand):
    """Tells the options of ``exec`` from those of its command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``--`` before the container and its command, so that what follows is nobody's option."""
        ctx.allow_interspersed_args = False
        before, words = self._split(ctx, args)
        if words:
            after, command = self._split(ctx, words[1:])
            return super().parse_args(ctx, [*before, *after, "--", words[0], *command])
        return super().parse_args(ctx, args)

    def _split(self, ctx: Any, args: list[str]) -> tuple[list[str], list[str]]:
        """Return leading options with their values, and what follows; a ``--`` between is dropped."""
        found, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        container, command = found.get("container"), found.get("command")
        words = [container, *(command if isinstance(command, tuple | list) else ())] if container in args else []
        options = args[: len(args) - len(words)]
        return (options[:-1] if options[-1:] == ["--"] else options), words


@connected
def execute(
    client: "Client",
    container: Annotated[
        str, typer.Argument(help="Uuid, its beginning or last part; or a deployment.", metavar="CONTAINER")
    ],
    command: Annotated[
        list[str] | None, typer.Argument(help="Command and its arguments; a shell if none.", metavar="COMMAND")
    ] = None,
    is_interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Give it this standard input, up to its end.")
    ] = False,
    has_tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
) -> None:
    """Run a command in a running container; ends with its exit code.

    Write it after --, like: muster exec -it CONTAINER -- nvidia-smi -l. Without a command: a shell, with -i, and with
    -t on a terminal.
    """
    on_terminal = terminal.is_terminal(terminal.STDIN)
    if not command:
        is_interactive, has_tty = True, has_tty or on_terminal
    if is_interactive and has_tty and not on_terminal:
        raise typer.BadParameter("standard input is no terminal: leave it out", param_hint="-t")
    uuid = find_writer(client, container).uuid
    with terminal.leaving_on_signals(), ExitStack() as stack:
        feeder = stack.enter_context(terminal.Feeder(reads_input=is_interactive, follows_size=has_tty))
        size = terminal.size() if has_tty else None
        stream = stack.enter_context(client.execute(uuid, command or SHELL, tty=has_tty, size=size))
        if not (is_interactive or has_tty):
            stream.write_eof()
        with terminal.signals_held():
            if is_interactive and has_tty:
                stack.enter_context(terminal.raw())
            feeder.start(stream)
        for number, chunk in stream.output():
            terminal.put(number, chunk)
        code = stream.exit_code()
    raise typer.Exit(code)
