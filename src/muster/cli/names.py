"""What a person calls a deployment, a container or an image, to its uuid.

Names of deployments are not unique, and uuids are long: a name, a uuid, or the beginning of one that only one thing
has will do; of a container also its last part, which is the shortest thing that tells replicas apart. A running
deployment goes before stopped ones of the same name. What fits several things is refused with the list of them.
"""

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from muster.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from muster.client import CatalogueImage, Client, Container, Deployment

Thing = TypeVar("Thing", "Deployment", "Container", "CatalogueImage")


def find_deployment(client: "Client", name: str) -> "Deployment":
    """Return the deployment that is meant. Raises ``NotFound``, or ``InvalidSpec`` listing what it may mean."""
    named = list(client.deployments(name=name))
    running = [each for each in named if each.status == "running"]
    if named:
        return _only(running or named, "deployment", name)
    return _only(_with_prefix(client.deployments(), name), "deployment", name)


def find_container(client: "Client", name: str) -> "Container":
    """Return the container that is meant. Raises ``NotFound``, or ``InvalidSpec`` listing what it may mean."""
    everything = list(chain(client.containers(), client.containers(is_released=True)))
    matches = _with_prefix(everything, name) or [each for each in everything if each.uuid.rpartition("-")[2] == name]
    return _only(matches, "container", name)


def find_writer(client: "Client", name: str) -> "Container":
    """Return the container whose output is meant; a deployment stands for its only live one, or else its latest."""
    try:
        return find_container(client, name)
    except NotFound:
        named = [each for each in client.deployments(name=name) if each.name == name]
        deployments = [each for each in named if each.status == "running"] or named
        if not deployments:
            raise
    containers = client.containers_of(_only(deployments, "deployment", name).uuid)
    if not containers:
        raise InvalidSpec(name, f"this deployment has no container yet; why: muster explain {name!r}")
    return _only([each for each in containers if each.status != "shutdown"] or containers[-1:], "container", name)


def find_image(client: "Client", name: str) -> "CatalogueImage":
    """Return the image that is meant. Raises ``NotFound``, or ``InvalidSpec`` listing what it may mean."""
    everything = client.catalogue()
    named = [each for each in everything if each.name == name]
    is_uuid = name.startswith(("image-", "base-image-"))
    return _only(named or (_with_prefix(everything, name) if is_uuid else []), "image", name)


def _with_prefix(things: Iterable[Thing], name: str) -> list[Thing]:
    matches = [each for each in things if name and each.uuid.startswith(name)]
    return [each for each in matches if each.uuid == name] or matches


def _only(matches: list[Thing], kind: str, name: str) -> Thing:
    if not matches:
        raise NotFound(kind, name)
    if len(matches) > 1:
        uuids = ", ".join(each.uuid for each in matches)
        raise InvalidSpec(name, f"may mean {len(matches)} {kind}s, name one by its uuid: {uuids}")
    return matches[0]
