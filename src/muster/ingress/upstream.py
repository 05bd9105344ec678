"""The server, as the ingress finds it: its address in the home's profile, the secret that both know beside it.

Both are read when they are first needed and again after each failure, because the server may have moved, or may be
there for the first time. Errors come as ``ApiUnavailable``, or as ``Unauthenticated`` when it does not know the secret;
``Trouble`` tells each of them once, not each of the thousand times that it is met.
"""

import logging
from pathlib import Path
from typing import Any

import httpx

from muster.errors import ApiUnavailable, MusterError, SetupError, Unauthenticated
from muster.home import INGRESS_TOKEN, PROFILE, read_profile, shared_secret

ROUTES = "/api/v1/muster/routes"
REPORT = "/api/v1/muster/routes/report"
_CONNECT_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Upstream:
    """Calls the server of a home. Enter it before use."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client = httpx.AsyncClient(trust_env=False)
        self._found: tuple[str, str] | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(self, method: str, path: str, *, timeout_seconds: float, **request: Any) -> httpx.Response:
        """Return an answer of success. Raises ``ApiUnavailable`` and ``Unauthenticated``."""
        url, token = self._found or self._find()
        try:
            answer = await self._client.request(
                method,
                url + path,
                headers={"Authorization": token, "Content-Type": "application/json"},
                timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
                **request,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._found = None
            raise ApiUnavailable(f"the server at {url} does not answer ({str(error) or repr(error)})") from error
        if answer.is_success:
            self._found = url, token
            return answer
        self._found = None
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Unauthenticated(
                f"the server at {url} does not accept the secret in {self._home / INGRESS_TOKEN}:"
                f" is {self._home / PROFILE} of this home's own server?"
            )
        raise ApiUnavailable(f"the server at {url} answers {path} with {answer.status_code}")

    def _find(self) -> tuple[str, str]:
        """Return URL and secret. Raises ``ApiUnavailable``."""
        try:
            profile = read_profile(self._home / PROFILE)
            if profile is None:
                raise _NotYet(f"no server has left its address in {self._home / PROFILE} yet")
            return profile.url.rstrip("/"), shared_secret(self._home / INGRESS_TOKEN)
        except SetupError as error:
            raise ApiUnavailable(str(error)) from error


class _NotYet(ApiUnavailable):
    """This home never had a server: it is being started, as a rule."""


class Trouble:
    """Tells what is wrong when it begins, and that it is over."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._why = ""

    def tell(self, why: MusterError) -> None:
        """Log it, unless it is what was told last."""
        if str(why) != self._why:
            level = {Unauthenticated: logging.ERROR, _NotYet: logging.INFO}.get(type(why), logging.WARNING)
            _log.log(level, "%s: %s", self._what, why)
        self._why = str(why)

    def over(self) -> None:
        """Log that it is over, if there was one."""
        if self._why:
            _log.info("%s: works again", self._what)
        self._why = ""
