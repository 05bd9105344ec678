"""What a login runs in a container, as words for the engine's exec: the shell of a person, or a command.

Images differ: bash or only busybox, with or without ``env``. So the words are a little program for ``sh``, of builtins
only: it exports what the client sent, finds bash or else keeps to sh, and becomes what was asked for. Folder and
environment of the container are the engine's business.

A person gets a login shell, as from sshd. But Debian's ``/etc/profile`` forgets the image's ``PATH``, and with it
conda or CUDA, for which sshd in containers is known; a ``PATH`` that the profile forgot is put back in front of it.
"""

import re
from collections.abc import Mapping

_NAME = re.compile(r"(TERM|COLORTERM|LANG|LANGUAGE|LC_[A-Z]+|TERM_PROGRAM|TERM_PROGRAM_VERSION)")
"""What is taken of the variables that a client sends: what its terminal can do, and its user can read."""
_LONGEST_VALUE = 1024

_BEGIN = """
while [ "$1" != -- ]; do export "$1"; shift; done
shift
[ -n "$USER" ] || export USER=root LOGNAME=root
SHELL=$(command -v bash || command -v sh)
export SHELL
"""
_SHELL = """
exec "$SHELL" -l -c 'case ":$PATH:" in *":$1:"*) ;; *) export PATH="$1:$PATH" ;; esac; exec "$0"' "$SHELL" "$PATH"
"""
_COMMAND = """
exec "$SHELL" -c "$1"
"""


def environment(sent: Mapping[str, str], *, terminal: str | None, peer: tuple[str, int, int]) -> dict[str, str]:
    """Return the variables of a login: those taken of the ones sent, and who is connected as sshd tells it.

    ``peer`` is address and port of the client, and the port that it reached.
    """
    address, port, own_port = peer
    taken = {
        name: value
        for name, value in sent.items()
        if _NAME.fullmatch(name) and len(value) <= _LONGEST_VALUE and "\0" not in value
    }
    if terminal is not None:
        taken["TERM"] = terminal if terminal.isprintable() and terminal else "dumb"
    taken["SSH_CLIENT"] = f"{address} {port} {own_port}"
    return taken


def shell(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words of a login shell."""
    return "sh", "-c", _BEGIN + _SHELL, "sh", *_assignments(variables), "--"


def one_shot(command: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words of a command, which is a line of shell."""
    return "sh", "-c", _BEGIN + _COMMAND, "sh", *_assignments(variables), "--", command


def _assignments(variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in variables.items())
