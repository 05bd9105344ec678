"""An account owns deployments and everything below them; a token acts for one account.

Only a token's hash is kept (SHA-256: tokens are 192 random bits, so a slow hash would protect nothing) together with
its first characters, by which a person recognises it in a list. The first digits of the hash are its name where one
token is meant: they tell nothing about it.
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from muster.model.ids import AccountId


class Role(StrEnum):
    """What an account may do beyond its own deployments."""

    ADMIN = "admin"
    MEMBER = "member"


TOKEN_ID_DIGITS = 10
"""How much of a token's hash names it: enough that two of an account never meet, and of no use to a thief."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much all running deployments of an account may want together; ``None``: as much as there is."""

    gpu_num: int | None = None
    container_num: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token. ``id`` are the first ten digits of its hash."""

    id: str
    account_id: AccountId
    prefix: str
    name: str
    created_at: datetime.datetime
    last_used_at: datetime.datetime | None = None
    expires_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant."""

    id: AccountId
    name: str
    role: Role
    created_at: datetime.datetime
    quota: Quota = Quota()

    @property
    def is_admin(self) -> bool:
        """Whether the account may manage accounts and use the engines that only admins may use."""
        return self.role is Role.ADMIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller(Account):
    """An account that asks for something, and by which of its tokens."""

    token_id: str

    @classmethod
    def of(cls, account: Account, token_hash: str) -> Self:
        """Return the account as the caller whose token has this hash."""
        return cls(
            id=account.id,
            name=account.name,
            role=account.role,
            created_at=account.created_at,
            quota=account.quota,
            token_id=token_hash[:TOKEN_ID_DIGITS],
        )
