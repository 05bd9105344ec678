"""Which server a command talks to, and as whom.

URL, the first of: ``--api``, ``MUSTER_API``, the profile that ``muster up`` wrote into the home folder, the user's
own profile, the default port on this host. Token, the first of: ``--token-file``, ``MUSTER_TOKEN``, the profile. A
token never stands on a command line, where every user of the host could read it, and a profile's token is sent to
that profile's server only.

``connected`` gives a command a ``Client`` and adds the options for this to it, so that no command repeats them.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import typer

from muster.errors import SetupError
from muster.model.url import shown

if TYPE_CHECKING:
    from muster.client import Client
    from muster.home import Profile

P = ParamSpec("P")

DEFAULT_URL = "http://127.0.0.1:7600"
_PANEL = "Connection"

Api = Annotated[
    str | None, typer.Option("--api", "-A", envvar="MUSTER_API", help="URL of the server.", rich_help_panel=_PANEL)
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File that holds the token (or set MUSTER_TOKEN).", rich_help_panel=_PANEL),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", envvar="MUSTER_HOME", help="Home folder whose server is meant.", rich_help_panel=_PANEL),
]


def connected(command: "Callable[Concatenate[Client, P], None]") -> Callable[..., None]:
    """Return the command with the options that say where to connect, in place of its first parameter."""

    @functools.wraps(command)
    def run(*args: Any, api: str | None, token_file: Path | None, home: Path | None, **kwargs: Any) -> None:
        from muster.client import Client  # noqa: PLC0415 httpx takes longer to load than a --help to print

        url, token = resolve(os.environ, api=api, token_file=token_file, home=home)
        with Client(url, token) as client:
            command(client, *args, **kwargs)

    own = list(inspect.signature(command).parameters.values())[1:]
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in (("api", Api), ("token_file", TokenFile), ("home", Home))
    ]
    run.__signature__ = inspect.Signature([*own, *ours])  # type: ignore[attr-defined]  # how typer learns of options
    run.__annotations__ = {each.name: each.annotation for each in [*own, *ours]}
    del run.__wrapped__  # inspect would look through it
    return run


def resolve(
    environ: Mapping[str, str], *, api: str | None = None, token_file: Path | None = None, home: Path | None = None
) -> tuple[str, str]:
    """Return URL and token. Raises ``SetupError`` when they are malformed or there is no token."""
    profile = _profile(environ, home)
    url = (api or environ.get("MUSTER_API") or (profile.url if profile else DEFAULT_URL)).rstrip("/")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise SetupError(f"{url!r} is no URL of a server; write http://HOST:PORT")
    if token_file is not None:
        try:
            return url, _checked(token_file.read_text(encoding="utf-8").strip(), str(token_file))
        except OSError as error:
            raise SetupError(f"--token-file: {token_file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SetupError(f"--token-file: {token_file} is no text") from error
    if environ.get("MUSTER_TOKEN"):
        return url, _checked(environ["MUSTER_TOKEN"].strip(), "MUSTER_TOKEN")
    if profile is not None and profile.url.rstrip("/") == url:
        return url, _checked(profile.token, "the profile")
    hint = "set MUSTER_TOKEN or use --token-file"
    if profile is None and not api and not environ.get("MUSTER_API"):
        hint = f"start a server with `muster up`, name its home with --home, or {hint}"
    raise SetupError(f"no token for {shown(url)}: {hint}")


def _profile(environ: Mapping[str, str], home: Path | None) -> "Profile | None":
    from muster.home import absolute, default_home, profile_paths, read_profile  # noqa: PLC0415 keeps --help fast

    told = home is not None or bool(environ.get("MUSTER_HOME"))
    paths = profile_paths(absolute(home) if home else default_home(environ))
    found = (read_profile(path) for path in (paths[:1] if told else paths))
    return next((profile for profile in found if profile is not None), None)


def _checked(token: str, origin: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SetupError(f"{origin}: holds no token; a token is one word of ASCII characters")
    return token
