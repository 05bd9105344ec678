"""An image that a deployment may name: a catalogue entry bound to a reference that an engine understands.

A base image belongs to the platform and everybody sees it; a private one is a name in its account's catalogue, bound to
a reference of a registry or saved from a container. ``digest`` is what the reference stood for when it was last
fetched. Binding a name anew changes nothing that runs: containers keep the reference that they were placed with.

``Prewarm`` is the wish that a machine holds an image before anybody waits for it, ``HeldImage`` what a machine holds.
"""

import datetime
from dataclasses import dataclass, field
from enum import StrEnum

from muster.model.ids import AccountId, ContainerUuid, ImageUuid, MachineId


class ImageStatus(StrEnum):
    """Whether an image can be used; ``finished`` is AutoDL's word for "yes"."""

    FINISHED = "finished"
    SAVING = "saving"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Image:
    """A catalogue entry. ``account_id=None`` is a base image of the platform, which every account sees.

    ``source_container`` is the container that it is, or was, saved from; ``message`` says why saving failed.
    """

    uuid: ImageUuid
    number: int
    account_id: AccountId | None
    name: str
    reference: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    digest: str = ""
    status: ImageStatus = ImageStatus.FINISHED
    message: str = ""
    source_container: ContainerUuid | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry asks for; the password shows nowhere."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """What an engine is to have: a reference, whether to ask the registry again, and what the registry asks for.

    ``account_id`` is for whom: what one account fetched with a password is not another's.
    """

    reference: str
    is_always_pulled: bool = False
    credential: Credential | None = field(default=None, repr=False)
    account_id: AccountId | None = None


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image on a machine. ``digest`` is empty for one that never came from a registry."""

    reference: str
    digest: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """How far an engine is with an order: there, or what it waits for, for people ("downloading 120 of 512 MB")."""

    held: HeldImage | None = None
    progress: str = ""


class PrewarmState(StrEnum):
    """How far a prewarm is."""

    WANTED = "wanted"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Prewarm:
    """The wish that a machine holds an image; ``message`` is the progress, or why it failed."""

    image_uuid: ImageUuid
    machine_id: MachineId
    account_id: AccountId
    state: PrewarmState
    updated_at: datetime.datetime
    message: str = ""


LOCAL_IMAGE = ImageUuid("base-image-10ca10ca10ca")
"""The only image of the local engine: the host's own file system."""
