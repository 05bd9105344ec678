"""What ``muster+https://HOST[:PORT][?ca=/PATH]`` means, and which token goes with it.

The token is never part of a URL, which ends up in logs and on command lines: it is ``MUSTER_TOKEN``, or that of the
profile that ``muster up`` wrote, if the profile is of this very address, as with the commands (``cli/connection.py``).
"""

import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muster.errors import InvalidSpec, SetupError
from muster.home import default_home, profile_paths, read_profile

FORM = "muster+https://HOST[:PORT][?ca=/PATH]"


@dataclass(frozen=True, slots=True)
class ApiUrl:
    """Where an API is, and how it is asked."""

    base_url: str
    ca_file: Path | None
    token: str = field(repr=False)


def parse(url: str, environ: Mapping[str, str] = os.environ) -> ApiUrl:
    """Read a registry URL and find its token. Raises ``InvalidSpec``, which tells no password that was put into it."""
    if "@" in url:
        raise InvalidSpec("registry", f"a user or password has no place in the URL: write {FORM} and set MUSTER_TOKEN")
    try:
        parts = urllib.parse.urlsplit(url)
        options = urllib.parse.parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if not parts.hostname or parts.port == 0 or parts.fragment or not options.keys() <= {"ca"}:
            raise InvalidSpec("registry", f"{url!r}: write {FORM}")
    except ValueError as error:
        raise InvalidSpec("registry", f"{url!r}: write {FORM}") from error
    if any(len(each) > 1 for each in options.values()):
        raise InvalidSpec("registry", f"{url!r}: only one ca can be meant")
    ca_file = Path(options["ca"][0]) if "ca" in options else None
    if ca_file is not None and not ca_file.is_absolute():
        raise InvalidSpec("registry", f"{url!r}: ca has to be an absolute path")
    base_url = f"{parts.scheme.removeprefix('muster+')}://{parts.netloc}{parts.path}".rstrip("/")
    return ApiUrl(base_url, ca_file, _token(base_url, environ))


def _token(base_url: str, environ: Mapping[str, str]) -> str:
    told = environ.get("MUSTER_TOKEN", "").strip()
    if told:
        return told
    paths = profile_paths(default_home(environ))
    try:
        for path in paths[:1] if environ.get("MUSTER_HOME") else paths:
            profile = read_profile(path)
            if profile is not None and profile.url.rstrip("/") == base_url:
                return profile.token
    except SetupError as error:
        raise InvalidSpec("registry", f"no token for {base_url}: {error}") from error
    raise InvalidSpec("registry", f"no token for {base_url}: set MUSTER_TOKEN")
