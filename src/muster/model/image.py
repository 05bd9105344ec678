"""An image that a deployment may name: a catalogue entry bound to a reference that an engine understands."""

import datetime
from dataclasses import dataclass

from muster.model.ids import AccountId, ImageUuid


@dataclass(frozen=True, slots=True)
class Image:
    """A catalogue entry. ``account_id=None`` is a base image of the platform, which every account sees."""

    uuid: ImageUuid
    number: int
    account_id: AccountId | None
    name: str
    reference: str
    created_at: datetime.datetime
    updated_at: datetime.datetime


LOCAL_IMAGE = ImageUuid("base-image-10ca10ca10ca")
"""The only image of the local engine: the host's own file system."""
