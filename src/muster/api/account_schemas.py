"""Bodies of accounts, tokens, quotas and the audit log."""

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from muster.api.schemas import RequestBody

_Limit = Annotated[int, Field(ge=0, le=1_000_000_000)]


class NewAccount(RequestBody):
    """An account to be; the name is part of paths and keys."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
    role: Literal["admin", "member"] = "member"


class WantToken(RequestBody):
    """A token to be. ``expires_in_seconds`` null: never; the longest is ten years."""

    name: Annotated[str, Field(max_length=100)] = ""
    expires_in_seconds: Annotated[int, Field(ge=1, le=10 * 366 * 86400)] | None = None


class SetQuota(RequestBody):
    """How much an account may want, all of it anew; null: as much as there is."""

    gpu_num: _Limit | None = None
    container_num: _Limit | None = None


class QuotaRow(BaseModel):
    """What an account may want, null without a bound, and what its running deployments want."""

    gpu_num: int | None
    container_num: int | None
    used_gpu_num: int
    used_container_num: int


class AccountRow(BaseModel):
    """A tenant."""

    id: int
    name: str
    role: str
    created_at: str
    quota: QuotaRow


class AccountList(BaseModel):
    """Accounts, oldest first."""

    accounts: list[AccountRow]


class TokenRow(BaseModel):
    """What is known of a token; ``last_used_at`` is up to a minute behind."""

    id: str
    prefix: str
    name: str
    created_at: str
    last_used_at: str | None
    expires_at: str | None
    is_expired: bool


class TokenList(BaseModel):
    """The tokens of an account, oldest first."""

    tokens: list[TokenRow]


class NewToken(BaseModel):
    """A token, shown this once, and what will be shown of it later."""

    token: str
    id: str
    expires_at: str | None


class AuditRow(BaseModel):
    """Who changed what, when. ``account`` owns what was changed, ``actor`` asked for it by the token ``token_id``."""

    id: int
    account: str
    actor: str
    token_id: str
    action: str
    target: str
    detail: str
    created_at: str


class AuditLog(BaseModel):
    """Entries of the audit log, newest first, and how many there are in all."""

    entries: list[AuditRow]
    total: int


def expiry(body: WantToken, now: datetime.datetime) -> datetime.datetime | None:
    """Return when a token ends."""
    return None if body.expires_in_seconds is None else now + datetime.timedelta(seconds=body.expires_in_seconds)
