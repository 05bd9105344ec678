"""OpenSSH's own client, called for a person who need not type a password or trust a key on sight.

In: a container's login as the API tells it, and the gateway's public key. Out: an exit code. The key is pinned under a
name of its own (``HostKeyAlias``), so neither the person's ``known_hosts`` nor a port that changes hands plays a part.
The password goes through ``SSH_ASKPASS``: a program in a folder of this call's own that takes it from the environment,
since a command line is everybody's to read. Any other question, like a passphrase, it asks at the terminal.

What else is in the person's ``ssh_config`` holds: the way to this host may lead through another.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.errors import InvalidSpec, SetupError

if TYPE_CHECKING:
    from muster.client import Client, Container

USER = "root"
_ALIAS = "muster"
_SECRET = "MUSTER_SSH_PASSWORD"  # noqa: S105  a variable's name
_ASKPASS = f"""#!/bin/sh
case $1 in
*assword*) printf '%s\\n' "${_SECRET}" ;;
*)
    printf '%s' "$1" >/dev/tty
    stty -echo </dev/tty
    read -r answer </dev/tty
    stty echo </dev/tty
    echo >/dev/tty
    printf '%s\\n' "$answer"
    ;;
esac
"""
_COMMAND = re.compile(rf"ssh -p (\d+) {USER}@(\S+)")
_SFTP_SINCE = (8, 7)
"""Since then ``scp -s`` says that SFTP is to be spoken; 9.0 speaks it anyway."""


@dataclass(frozen=True, slots=True)
class Login:
    """How one container is logged in to."""

    container_uuid: str
    host: str
    port: int
    host_key: str
    password: str = field(repr=False)


def login_of(client: "Client", container: "Container") -> Login:
    """Return the login of a container. Raises ``InvalidSpec`` when it has none."""
    found = _COMMAND.fullmatch(container.ssh_command)
    if found is None:
        raise InvalidSpec(
            container.uuid, "has no SSH login: its server runs no ingress, or it has no machine; try muster exec"
        )
    host_key = client.ssh.host_key()
    return Login(container.uuid, found[2], int(found[1]), host_key, container.root_password)


def program(name: str) -> str:
    """Return where a program of OpenSSH is. Raises ``SetupError``."""
    path = shutil.which(name)
    if path is None:
        raise SetupError(f"there is no {name} on this computer: install OpenSSH's client, or use muster exec")
    return path


def speaks_sftp(ssh: str) -> bool:
    """Tell whether this OpenSSH's ``scp`` knows ``-s``."""
    said = subprocess.run([ssh, "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH\w*_(\d+)\.(\d+)", said.stdout + said.stderr)
    return found is not None and (int(found[1]), int(found[2])) >= _SFTP_SINCE


def call(login: Login, words: Sequence[str], after: Sequence[str], *, uses_keys: bool = False) -> int:
    """Run ``words`` and, behind our own options, ``after``, on these standard streams; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="muster-ssh-") as name:
        folder = Path(name)
        known, askpass = folder / "known_hosts", folder / "askpass"
        known.write_text(f"{_ALIAS} {login.host_key}\n", encoding="ascii")
        askpass.write_text(_ASKPASS, encoding="ascii")
        askpass.chmod(0o700)
        options = {
            "User": USER,
            "Port": login.port,
            "HostKeyAlias": _ALIAS,
            "UserKnownHostsFile": f'"{known}"',
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "CheckHostIP": "no",
            "PreferredAuthentications": "publickey,password" if uses_keys or not login.password else "password",
            "NumberOfPasswordPrompts": 1,
        }
        ours = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return _run([*words, *ours, *after], _environ(askpass, login.password))


def _environ(askpass: Path, password: str) -> Mapping[str, str]:
    if not password:
        return os.environ
    # Before 8.4 ssh asks a program only without a terminal, and only where a display seems to be.
    display = {"DISPLAY": os.environ.get("DISPLAY") or ":0"}
    return {**os.environ, **display, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", _SECRET: password}


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    with _passing_signals_to() as running:
        process = subprocess.Popen(argv, env=environ)
        running.append(process)
        code = process.wait()
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _passing_signals_to() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Leave it to the child what Ctrl-C means, which its terminal tells it too; end it when this process is ended."""
    running: list[subprocess.Popen[bytes]] = []

    def end(number: int, _: Any) -> None:
        for process in running:
            process.send_signal(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before |= {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
