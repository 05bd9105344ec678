"""An account's registry credentials, sealed on their way into the store and opened on their way to an engine.

In and out of the store goes one encrypted text for each registry, user name included; nothing readable is ever in the
database, and only an order to an engine holds the password again.
"""

import datetime
import json
from collections.abc import Callable

from muster.errors import Conflict, InvalidSpec
from muster.model.ids import AccountId
from muster.model.image import Credential
from muster.model.reference import registry_of
from muster.store.port import Transaction
from muster.vault import Vault

CredentialFor = Callable[[Transaction, AccountId, str], Credential | None]
"""Finds what the registry of a reference asks of an account; ``Keyring.credential_for`` is one."""


class Keyring:
    """Credentials of all accounts; without a vault there are none, and none can be kept."""

    def __init__(self, vault: Vault | None) -> None:
        self._vault = vault

    def put(
        self, tx: Transaction, account_id: AccountId, registry: str, credential: Credential, now: datetime.datetime
    ) -> None:
        """Keep what a registry asks of an account. Raises ``SetupError`` when the vault's key cannot be used."""
        if self._vault is None:
            raise Conflict("this server keeps no secrets")
        plain = json.dumps({"username": credential.username, "password": credential.password})
        tx.credentials.put(account_id, registry, self._vault.seal(plain), now)

    def credential_for(self, tx: Transaction, account_id: AccountId, reference: str) -> Credential | None:
        """Return what the registry of a reference asks of an account, ``None`` if the account never told.

        A text that is no reference has no registry; the engine says what is wrong with it. Raises ``SetupError`` when
        the vault's key cannot be used.
        """
        if self._vault is None:
            return None
        try:
            registry = registry_of(reference)
        except InvalidSpec:
            return None
        sealed = tx.credentials.get(account_id, registry)
        if sealed is None:
            return None
        plain = json.loads(self._vault.open(sealed))
        return Credential(plain["username"], plain["password"])
