"""Bodies about SSH: an account's public keys, and the gateway's own."""

from typing import Annotated

from pydantic import BaseModel, Field

from muster.api.schemas import RequestBody


class NewSshKey(RequestBody):
    """A public key to be: the line of a ``.pub`` file. Without a name the comment in it is its name."""

    key: Annotated[str, Field(min_length=1, max_length=8192)]
    name: Annotated[str, Field(max_length=100)] = ""


class SshKeyRow(BaseModel):
    """A public key that opens the account's containers. ``fingerprint`` is as ``ssh-keygen -l`` prints it."""

    fingerprint: str
    name: str
    key: str
    created_at: str


class SshKeyList(BaseModel):
    """The account's keys, oldest first."""

    keys: list[SshKeyRow]


class HostKey(BaseModel):
    """The gateway's public key, the same for every container: ``ssh-ed25519`` and base64.

    In a ``known_hosts`` file it stands after ``[HOST]:PORT``.
    """

    host_key: str
