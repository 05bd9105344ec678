"""An account owns deployments and everything below them; a token acts for one account.

Only a token's hash is kept (SHA-256: tokens are 192 random bits, so a slow hash would protect nothing) together with
its first characters, by which a person recognises it in a list.
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum

from muster.model.ids import AccountId


class Role(StrEnum):
    """What an account may do beyond its own deployments."""

    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant."""

    id: AccountId
    name: str
    role: Role
    created_at: datetime.datetime

    @property
    def is_admin(self) -> bool:
        """Whether the account may manage accounts and use the engines that only admins may use."""
        return self.role is Role.ADMIN
