"""The start of an object, and what is done when Docker refuses it for reasons of its own.

Ended containers keep no network, and a daemon that dies amid a start leaves what the next one does not know of. Where
its containers outlive it (``live-restore``, or a containerd of its own), that is for good, and each has its cure:

* a network that is gone, or that Docker's driver does not know: it is made again;
* the container's end of the network, which is said to exist: it is deleted;
* a run that is said not to run (``lost_runs``): it is killed, because nobody could ever stop it;
* containerd's notes of the object, which no call of Docker's deletes: its files become another object of that name.

Each cure is tried once. The command is never run twice by that: its container refuses a second start by itself.
"""

import asyncio
import re

from aiodocker.exceptions import DockerError

from muster.engine.docker import reuse
from muster.engine.docker.connection import Connection, refusal
from muster.engine.docker.lost_runs import end_lost_run
from muster.engine.docker.networks import Networks
from muster.engine.docker.objects import Objects, Thing
from muster.model.container import Reason
from muster.model.ids import AccountId

_START_SECONDS = 120.0


class Starter:
    """Starts the objects of one installation."""

    def __init__(self, connection: Connection, objects: Objects, networks: Networks) -> None:
        self._connection = connection
        self._objects = objects
        self._networks = networks
        self._cures = (
            (re.compile(r"network \S+ (not found|does not exist)"), self._renew_network),
            (re.compile(r"endpoint with name \S+ already exists"), self._delete_end),
            (re.compile(r"\bid already in use"), self._end_lost_run),
            (re.compile(r"\btask \S+ already exists|\bmkdir \S+ file exists"), self._remake),
        )

    async def start(self, thing: Thing) -> None:
        """Start an object. Raises ``EngineRejected`` when it cannot be started, ``EngineUnavailable``."""
        cures = list(self._cures)
        while True:
            try:
                await self._connection.call("POST", f"containers/{thing.docker_id}/start", seconds=_START_SECONDS)
            except DockerError as error:
                said = str(error.message)
                attempt = f"start of {thing.container_id}"
                found = next((each for each in cures if each[0].search(said)), None)
                if found is None:
                    raise refusal(Reason.START_FAILED, attempt, error) from error
                cures.remove(found)
                try:
                    thing = await found[1](thing)
                except DockerError as failure:
                    raise refusal(Reason.START_FAILED, f"{attempt}: {said}", failure) from failure
            else:
                return

    async def _renew_network(self, thing: Thing) -> Thing:
        await self._networks.renew(AccountId(thing.account_id))
        return thing

    async def _delete_end(self, thing: Thing) -> Thing:
        """Delete the end of the network that has the object's name, which Docker does only while no object has it.

        Whoever looks for the object meanwhile gives it its name back: then Docker takes it off the network instead.
        """
        names, account_id = self._objects.names, AccountId(thing.account_id)
        name = names.container(thing.container_id)
        await self._objects.rename(thing.docker_id, names.copying(thing.container_id))
        try:
            await self._networks.delete_end(account_id, name)
        finally:
            await self._objects.rename(thing.docker_id, name)
        await self._networks.attach(account_id, thing.docker_id)
        return thing

    async def _end_lost_run(self, thing: Thing) -> Thing:
        await asyncio.to_thread(end_lost_run, thing.docker_id)
        return thing

    async def _remake(self, thing: Thing) -> Thing:
        return await reuse.remake(self._connection, self._objects, thing)
