"""A host that an account does not want to be placed on for a time; what runs there stays."""

import datetime
from dataclasses import dataclass

from muster.model.ids import AccountId, MachineId


@dataclass(frozen=True, slots=True)
class BlacklistEntry:
    """One account's ban of one machine. ``created_at`` is when it was first set, ``updated_at`` when last."""

    account_id: AccountId
    machine_id: MachineId
    data_center: str
    comment: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    expires_at: datetime.datetime
