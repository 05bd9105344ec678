"""The home folder of an installation, and the profile in it that lets the next command find the server.

In: the environment. Out: paths, and the server's URL with a token. ``muster up`` writes ``<home>/profile.json`` with
the address it serves at and the first admin token, readable by its owner only; a command that is told neither URL nor
token reads it from there, or from the user's configuration folder, where a person may put one for a server elsewhere.

A module of its own, without pydantic, because every command needs it and nobody wants to wait for it. ``up`` writes
into its home only: writing the user's own folder too would let two homes on one machine overwrite each other.
"""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from muster.errors import SetupError

PROFILE = "profile.json"
INGRESS_TOKEN = "ingress.token"  # noqa: S105  a file's name


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a server answers, and a token that it accepts."""

    url: str
    token: str = field(repr=False)


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``MUSTER_HOME``, or the user's data folder for Muster."""
    told = environ.get("MUSTER_HOME")
    return absolute(told) if told else Path(platformdirs.user_data_dir("muster", appauthor=False))


def absolute(path: str | Path) -> Path:
    """Return ``path`` with ``~`` and the working directory resolved, so that it means the same in every process."""
    return Path(path).expanduser().absolute()


def profile_paths(home: Path) -> tuple[Path, ...]:
    """Return where profiles are looked for, most specific first."""
    return home / PROFILE, Path(platformdirs.user_config_dir("muster", appauthor=False)) / PROFILE


def write_profile(path: Path, url: str, token: str) -> None:
    """Replace the profile at ``path``; only its owner may read it, from the first byte on.

    Raises ``SetupError`` when the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"url": url, "token": token}, file)
            file.write("\n")
        draft.replace(path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}; choose another folder with --home") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file of the home, whole or not at all, readable by its owner only. Raises ``SetupError``."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}; choose another folder with --home") from error


def shared_secret(path: Path) -> str:
    """Return the secret in a file of the home by which its processes know each other; the first who asks draws it.

    Raises ``SetupError``, also for a file that is empty (after a loss of power): everybody knows an empty secret.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        write_text(draft, secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it fails where somebody was faster
        draft.unlink()
        secret = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise SetupError(f"{path}: holds no secret; remove it, and restart server and ingress")
    return secret


def read_profile(path: Path) -> Profile | None:
    """Return the profile at ``path``, ``None`` when there is none.

    Raises ``SetupError`` when it cannot be read, or when others could read it too.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            wire = json.load(file)
        profile = Profile(url=str(wire["url"]), token=str(wire["token"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f'{path}: is no profile; write {{"url": "http://HOST:PORT", "token": "…"}}') from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SetupError(f"{path}: others may read the token in it; run: chmod 600 {path}")
    return profile
