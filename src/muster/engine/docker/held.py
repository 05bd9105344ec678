"""The images that a daemon holds.

Docker knows one image by many names, and a digest is of one registry's name each: the same image has others elsewhere,
and none where it was only loaded, saved or tagged. Names are told in the form that ``model.reference`` compares. What
nobody could order is left out of the list: images without a name, names that we do not read, and the passing ones of
``reuse``. Nothing of Docker's storage driver is read: its containerd image store has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection, refusal
from muster.engine.docker.reuse import COPY_REPOSITORY
from muster.errors import EngineRejected, InvalidSpec
from muster.model.container import Reason
from muster.model.image import HeldImage
from muster.model.reference import Reference, parse

_NOT_FOUND = 404


def read_reference(text: str) -> Reference:
    """Read a reference: Docker would take some texts that are none for the id of an image, whosever it is."""
    try:
        return parse(text)
    except InvalidSpec as error:
        raise EngineRejected(Reason.IMAGE_PULL_FAILED, f"{text!r} names no image: {error.reason}") from error


async def find_image(connection: Connection, reference: Reference) -> HeldImage | None:
    """Return an image that is there. Raises ``EngineRejected`` for one that Docker cannot read."""
    try:
        found = await connection.call("GET", f"images/{reference}/json")
    except DockerError as error:
        if error.status == _NOT_FOUND:
            return None
        raise refusal(Reason.IMAGE_PULL_FAILED, f"look at image {reference}", error) from error
    return _as_named(found, reference)


async def list_images(connection: Connection) -> Sequence[HeldImage]:
    """Return every image that is there, by every name that it has. Raises ``DockerError``."""
    return [held for found in await connection.call("GET", "images/json") for held in held_by_names(found)]


def held_by_names(found: Mapping[str, Any]) -> Sequence[HeldImage]:
    """Return one image of Docker's list under every name that it has."""
    names = [*(found.get("RepoTags") or []), *(found.get("RepoDigests") or [])]
    references = {parsed for name in names if (parsed := _parsed(name)) is not None and parsed.name != COPY_REPOSITORY}
    return [_as_named(found, reference) for reference in sorted(references, key=str)]


def _as_named(found: Mapping[str, Any], reference: Reference) -> HeldImage:
    known = [_parsed(each) for each in found.get("RepoDigests") or []]
    digests = (each.digest for each in known if each is not None and each.name == reference.name)
    return HeldImage(str(reference), reference.digest or next(digests, ""), int(found["Size"]))


def _parsed(name: str) -> Reference | None:
    try:
        return parse(name)
    except InvalidSpec:  # "<none>:<none>", and what an operator may have named by hand
        return None
