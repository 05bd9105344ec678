"""The wire of blacklists: AutoDL's three calls, and our own by machine."""

from typing import Annotated

from pydantic import BaseModel, Field

from muster.api.schemas import Name, RequestBody
from muster.api.text import ONE_LINE

DEFAULT_MINUTES = 24 * 60
MOST_MINUTES = 30 * 24 * 60


class BlacklistMachine(RequestBody):
    """Keep deployments of the account off the machine of a container, running or ended, for a time."""

    deployment_container_uuid: Name
    expire_in_minutes: Annotated[int, Field(ge=1, le=MOST_MINUTES)] = DEFAULT_MINUTES
    comment: Annotated[str, Field(max_length=1000), ONE_LINE] = ""


class BlacklistRow(BaseModel):
    """A machine that nothing of the account is placed on until ``expired_time``; ``msg`` is the comment."""

    created_at: str
    data_center: str
    expired_time: str
    machine_id: str
    msg: str
    updated_at: str


class BlacklistedRow(BaseModel):
    """The same in our own words."""

    machine_id: str
    data_center: str
    comment: str
    created_at: str
    updated_at: str
    expires_at: str


class BlacklistedList(BaseModel):
    """The machines that nothing of the account is placed on for now, by id."""

    machines: list[BlacklistedRow]
