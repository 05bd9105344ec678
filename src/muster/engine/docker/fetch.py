"""One attempt at a registry, by Docker: to be let in, or to fetch.

In: a reference, and what its registry asks for. Out: nothing, or what Docker or the registry said against it. Docker
asks the registry, never we, so that its mirrors, proxies and certificates count. The password goes along in a header
and nowhere else: Docker keeps none, and neither do we.

A daemon that is away is ``EngineUnavailable``. Docker words a *registry* that is away as it words itself being away, so
what ``connection`` takes for the latter is looked at again here: if Docker answered at all, it was the registry.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection
from muster.engine.docker.pull_words import Kind, Progress, is_about_docker, kind_of
from muster.errors import EngineUnavailable
from muster.model.image import Credential
from muster.model.reference import DEFAULT_REGISTRY, Reference

SILENCE_SECONDS = 300.0
"""A fetch tells something every few seconds; only the checksum of a very large layer takes longer, on a slow disk."""
_DOCKER_HUB = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Failure:
    """What was said against it."""

    kind: Kind
    said: str


class Fetcher:
    """Has one daemon ask registries. Silence of more than ``silence_seconds`` is one that cannot be reached."""

    def __init__(self, connection: Connection, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._connection = connection
        self._silence_seconds = silence_seconds

    async def knock(self, reference: Reference, credential: Credential | None) -> Failure | None:
        """Ask the registry to be let in; fetches nothing."""
        answer = self._connection.stream(
            f"distribution/{reference}/json", {}, headers=_headers(credential, reference), seconds=self._silence_seconds
        )
        return await self._listen(answer, reference, lambda _: None)

    async def pull(self, reference: Reference, credential: Credential | None, progress: Progress) -> Failure | None:
        """Fetch, telling how far it is. Docker need not ask the registry for a digest that it has seen before."""
        answer = self._connection.stream(
            "images/create",
            {"fromImage": reference.name, "tag": reference.digest or reference.tag},
            method="POST",
            headers=_headers(credential, reference),
            seconds=self._silence_seconds,
        )
        return await self._listen(answer, reference, progress.read)

    async def _listen(
        self,
        answer: AbstractAsyncContextManager[aiohttp.StreamReader],
        reference: Reference,
        read: Callable[[Mapping[str, Any]], None],
    ) -> Failure | None:
        """Read an answer to its end; return what it says against the image."""
        said = f"timeout: nothing was heard for {self._silence_seconds:g} s"
        try:
            async with answer as lines:
                while line := await _next(lines, self._silence_seconds):
                    told = json.loads(line)
                    if "error" in told:
                        raise DockerError(500, str((told.get("errorDetail") or {}).get("message") or told["error"]))
                    read(told)
                return None
        except TimeoutError:
            pass
        except DockerError as error:
            said = str(error.message)
        except EngineUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, DockerError):
                said = str(cause.message)
            elif not isinstance(cause, TimeoutError):
                raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineUnavailable(f"fetch of {reference}: Docker broke off: {error}") from error
        if is_about_docker(said):
            raise EngineUnavailable(f"fetch of {reference}: Docker broke off: {said}")
        return Failure(kind_of(said, reference), said)


async def _next(lines: aiohttp.StreamReader, seconds: float) -> bytes:
    async with asyncio.timeout(seconds):
        return await lines.readline()


def _headers(credential: Credential | None, reference: Reference) -> Mapping[str, str]:
    if credential is None:
        return {}
    address = _DOCKER_HUB if reference.registry == DEFAULT_REGISTRY else reference.registry
    secret = {"username": credential.username, "password": credential.password, "serveraddress": address}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(secret).encode()).decode()}
