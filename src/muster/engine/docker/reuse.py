"""One container's object, with its files, becomes another's: in place where that is possible, as a copy where not.

**In place.** Docker cannot change a container's GPUs, mounts or shared memory, but everything else: environment and
command are read from the folder at each start, limits by ``docker update``. Steps: write the folder for the new run,
update the limits if they differ, rename. The rename is the one step that observers see; before it the object is still
the old container's (its folder may already speak of the new one, which only the next start would read), after it the
new one's.

**As a copy**, when the GPUs differ: commit the old container to an image of our own, make a new container of it under
a passing name, remove the old one, rename. While both exist neither runs, and both mount the same ``tmp``, so at no
instant are there two users of the files. The last rename may be made by anybody (``Objects.find``). ``docker commit``
costs 100 ms for 10 MB of changes and seconds for a GB; what lies in ``/root/autodl-tmp`` is not copied at all.

Refused: an OCI runtime wrapper that patches the GPUs at each start (fast, but needs a line in every host's daemon.json
and leaves ``docker inspect`` and ``docker exec`` telling the old ones), and swapping overlay2's directories (fast, but
inside Docker's private tree). ADR 0010 has the measurements.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection, converted, refusal
from muster.engine.docker.folder import Folder
from muster.engine.docker.host import HostProbe
from muster.engine.docker.objects import Objects, Thing
from muster.engine.docker.spec import ALL_LABELS, COPY_IMAGE, COPY_OF, HostLimits, limits
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.model.ids import ContainerId
from muster.model.run import ContainerRun

COPY_REPOSITORY = "muster.invalid/copy"
"""Of a domain that cannot exist, so that no registry is ever asked for it."""
_NOT_FOUND = 404
_COMMIT_SECONDS = 3600.0
"""For a hundred GB and more; whoever hangs for longer does not write."""

Create = Callable[[ContainerRun, str, Folder, str, Thing], Awaitable[None]]
"""Make a container of this run from an image (a reference), on a folder, under a name, as a copy of a thing."""


async def take_over(
    connection: Connection, objects: Objects, run: ContainerRun, probe: HostProbe, create: Create
) -> None:
    """Make the object that ``run`` takes over the run's own; the same again, after a death anywhere, finishes it."""
    assert run.takes_over is not None
    old = await objects.find(run.takes_over.container_id)
    if old is None or old.ref.generation != run.takes_over.generation:
        raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"{run.takes_over.container_id}, to be reused, is gone")
    if old.account_id != run.account_id:
        raise EngineRejected(Reason.START_FAILED, f"{old.container_id} is another account's and is never reused")
    if old.info["State"]["Running"]:
        raise EngineUnavailable(f"{old.container_id}, which is to be reused, still runs")
    if _devices(old) == run.devices:
        await _in_place(connection, objects, run, old, await probe.limits_for(old.info["Image"]))
    else:
        await _as_copy(connection, objects, run, old, create)


async def remove_copied_image(connection: Connection, thing: Thing) -> None:
    """Remove the image that a copied container was made from; its layers stay while another copy needs them."""
    await remove_image(connection, thing.labels.get(COPY_IMAGE, ""))


async def copied_images(connection: Connection, objects: Objects) -> Sequence[tuple[ContainerId, str]]:
    """Return the images of this installation's copies, with the containers that they were made for."""
    filters = {"reference": [COPY_REPOSITORY]}
    found = await connection.call("GET", "images/json", params={"filters": filters})
    images = [image for each in found for image in each.get("RepoTags") or ()]
    names = [(objects.names.parse(image.rpartition(":")[2]), image) for image in images]
    return [(parsed[0], image) for parsed, image in names if parsed is not None]


async def _in_place(connection: Connection, objects: Objects, run: ContainerRun, old: Thing, host: HostLimits) -> None:
    started_before = old.info["State"]["StartedAt"]
    await asyncio.to_thread(old.folder.write_run, run, started_before=started_before)
    wanted, has = limits(run, host), old.info["HostConfig"]
    if any(has.get(name) != value for name, value in wanted.items()):
        await connection.call("POST", f"containers/{old.docker_id}/update", body=wanted)
    await objects.rename(old.docker_id, objects.names.container(run.ref.container_id))


async def _as_copy(connection: Connection, objects: Objects, run: ContainerRun, old: Thing, create: Create) -> None:
    image = f"{COPY_REPOSITORY}:{objects.names.container(run.ref.container_id)}"
    name = objects.names.copying(run.ref.container_id)
    if await objects.inspect(name) is None:
        if not await _is_there(connection, image):  # it is when a call died since; the old one has not run meanwhile
            await _commit(connection, old, image)
        # The label, and with it the folder, goes along; the card is written last, so that the old object has one
        # until there is a new one.
        await create(replace(run, takes_over=None), image, old.folder, name, old)
    with converted(f"reuse of {old.container_id}"):  # from here on there is no way back: it is tried until it is done
        await asyncio.to_thread(old.folder.write_run, run, started_before="")
        await remove_object(connection, old.docker_id)
        await remove_copied_image(connection, old)
        await objects.rename(name, objects.names.container(run.ref.container_id))


async def remake(connection: Connection, objects: Objects, thing: Thing) -> Thing:
    """Make an object anew that does not run, with its files and settings: Docker's id of it is all that changes.

    The same again, after a death anywhere, finishes it.
    """
    name, passing = objects.names.container(thing.container_id), objects.names.copying(thing.container_id)
    image = f"{COPY_REPOSITORY}:{name}"
    if await objects.inspect(passing) is None:
        await _commit(connection, thing, image)
        labels = {**thing.labels, COPY_OF: thing.container_id, COPY_IMAGE: image}
        body = {**thing.info["Config"], "Image": image, "Labels": labels, "HostConfig": thing.info["HostConfig"]}
        await connection.call("POST", "containers/create", params={"name": passing}, body=body)
    with converted(f"making {thing.container_id} anew"):
        await remove_object(connection, thing.docker_id)
        await objects.rename(passing, name)
        made = await objects.inspect(name)
    if made is None:
        raise EngineUnavailable(f"{thing.container_id}, which was made anew, has just gone")
    return made


async def _commit(connection: Connection, old: Thing, image: str) -> None:
    repository, _, tag = image.rpartition(":")
    try:
        await commit(connection, old.docker_id, repository, tag)
    except DockerError as error:
        raise refusal(Reason.START_FAILED, f"copy of {old.container_id}", error) from error


async def commit(connection: Connection, docker_id: str, repository: str, tag: str) -> None:
    """Make an image of a container's files, without our entry and with our labels empty, so that it is nobody's object.

    Whatever is not said here the image has from its container, and to say "no entry point" takes a body: the same as a
    Dockerfile's instruction counts as not said.
    """
    config = {"Entrypoint": [], "Cmd": ["/bin/sh"], "Labels": dict.fromkeys(ALL_LABELS, "")}
    params = {"container": docker_id, "repo": repository, "tag": tag, "pause": True}
    await connection.call("POST", "commit", params=params, body=config, seconds=_COMMIT_SECONDS)


async def remove_object(connection: Connection, docker_id: str) -> None:
    """Remove a container, running or not; absent is fine, and so is one that is being removed."""
    try:
        await connection.call("DELETE", f"containers/{docker_id}", params={"force": True, "v": True}, seconds=120)
    except DockerError as error:
        if error.status not in (404, 409):
            raise


async def _is_there(connection: Connection, image: str) -> bool:
    try:
        await connection.call("GET", f"images/{image}/json")
    except DockerError as error:
        if error.status != _NOT_FOUND:
            raise
        return False
    return True


async def remove_image(connection: Connection, image: str) -> None:
    """Take a name off an image; absent is fine, and so is one that a container needs."""
    if not image:
        return
    try:
        await connection.call("DELETE", f"images/{image}", params={"force": False})
    except DockerError as error:
        if error.status not in (404, 409):
            raise


def _devices(thing: Thing) -> tuple[str, ...]:
    requests = thing.info["HostConfig"]["DeviceRequests"] or []
    return tuple(device for request in requests for device in request["DeviceIDs"] or ())
