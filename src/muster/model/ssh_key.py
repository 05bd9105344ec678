"""A public key that lets its owner into the account's containers by SSH."""

import datetime
from dataclasses import dataclass

from muster.model.ids import AccountId


@dataclass(frozen=True, slots=True)
class SshKey:
    """One key of an account. ``key`` is a line of OpenSSH, type and base64; ``fingerprint`` is its ``SHA256:…``."""

    account_id: AccountId
    fingerprint: str
    name: str
    key: str
    created_at: datetime.datetime
