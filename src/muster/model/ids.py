"""The names of things, each a type of its own so that they cannot be swapped by accident.

A container has two names. ``ContainerId`` is internal: 16 hex, made when the container is wanted, the key
everywhere inside. ``ContainerUuid`` is what the AutoDL API, the environment and the registry show; it holds the
machine's id, so only placement can make it: ``<deployment>-<machine>-<10 hex>``. A reused container keeps the first
three parts and gets a new fourth of 9 hex.
"""

import re
import secrets
from typing import NewType

AccountId = NewType("AccountId", int)
ContainerId = NewType("ContainerId", str)
ContainerUuid = NewType("ContainerUuid", str)
DeploymentId = NewType("DeploymentId", str)
"""10 lowercase hex: the ``deployment_uuid`` of the API."""
ImageUuid = NewType("ImageUuid", str)
"""``image-`` and 10 hex for a private image, ``base-image-`` and 12 hex for one of the platform."""
MachineId = NewType("MachineId", str)
"""10 lowercase hex, stable for the life of a host."""

_CONTAINER_UUID = re.compile(r"[0-9a-f]{10}-[0-9a-f]{10}-[0-9a-f]{10}(-[0-9a-f]{9})?")

_IMAGE_UUID = re.compile(r"image-[0-9a-f]{10}|base-image-[0-9a-z]{10,12}")


def is_container_uuid(text: str) -> bool:
    """Tell whether ``text`` has the form of a container uuid, fresh or reused."""
    return _CONTAINER_UUID.fullmatch(text) is not None


def is_image_uuid(text: str) -> bool:
    """Tell whether ``text`` has the form of an image's uuid, ours or one of AutoDL's."""
    return _IMAGE_UUID.fullmatch(text) is not None


def fresh_container_uuid(deployment: DeploymentId, machine: MachineId, suffix: str) -> ContainerUuid:
    """Name a container that starts from its image; ``suffix`` is 10 hex that the caller drew."""
    return ContainerUuid(f"{deployment}-{machine}-{suffix}")


def reused_container_uuid(original: ContainerUuid, suffix: str) -> ContainerUuid:
    """Name a container that takes over the files of ``original``; ``suffix`` is 9 hex that the caller drew."""
    return ContainerUuid("-".join([*original.split("-")[:3], suffix]))


def random_hex(digits: int) -> str:
    """Draw ``digits`` unpredictable hex digits; edges call it, pure code is given the result."""
    return secrets.token_hex((digits + 1) // 2)[:digits]
