"""Who changed what, and when: one entry per change that somebody asked for, in the transaction that makes it.

Values that may be secret (environment variables, tokens, passwords) never get here: an entry names what was changed,
and says of a value at most that it is another one.
"""

import datetime
from dataclasses import dataclass

from muster.model.ids import AccountId


@dataclass(frozen=True, slots=True)
class NewAuditEntry:
    """A change. ``account_id`` owns what was changed; ``actor`` is the name of the account that asked for it.

    ``token_id`` tells by which of its tokens. ``action`` is a verb with its noun (``deployment.create``), ``target``
    the name of the thing, ``detail`` one line for people.
    """

    account_id: AccountId
    actor: str
    token_id: str
    action: str
    target: str
    detail: str
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class AuditEntry(NewAuditEntry):
    """An entry of the log; ``id`` ascends with the order of commits."""

    id: int = 0
