"""The audit log's writer: one entry for each change that a caller asks for, in the transaction that makes it.

Every route that changes something calls ``note`` where it writes. ``action`` is a noun and a verb
(``deployment.create``), ``target`` what a person would search for (a uuid, a name, a path), ``detail`` one line that
says what was asked. Values that may be secret stay out of it: environment variables, commands, passwords, tokens, the
content of files. That a value was changed may be said, and never to what.
"""

import datetime

from muster.model.account import Caller
from muster.model.audit import NewAuditEntry
from muster.model.ids import AccountId
from muster.store.port import Transaction

_LONGEST = 500
"""Characters of a detail that are kept: room for a sentence, and none for somebody who fills the log with a name."""


def note(  # noqa: PLR0917  who, what, to what, how and when, as one says it
    tx: Transaction,
    caller: Caller,
    action: str,
    target: str,
    detail: str,
    now: datetime.datetime,
    *,
    owner: AccountId | None = None,
) -> None:
    """Write down what ``caller`` asked for; ``owner`` is whose thing it is, where it is not the caller's."""
    tx.audit.append(
        NewAuditEntry(
            account_id=caller.id if owner is None else owner,
            actor=caller.name,
            token_id=caller.token_id,
            action=action,
            target=_one_line(target),
            detail=_one_line(detail),
            created_at=now,
        )
    )


def _one_line(text: str) -> str:
    """Keep a name that somebody chose from breaking lines or driving the terminal of who reads the log."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
