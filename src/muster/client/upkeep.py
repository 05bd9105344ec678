"""Machines as methods of the client: what admins want of them, and which of them an account keeps off."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from muster.client import wire
from muster.client.values import Blacklisted, Machine

Call = Callable[..., Any]


class Upkeep:
    """Reached as ``client.upkeep``. ``muster`` calls our own paths."""

    def __init__(self, muster: Call) -> None:
        self._muster = muster

    def cordon(self, machine_id: str) -> Machine:
        """Place nothing new there; what runs there stays (admins only, as all but the blacklist)."""
        return self._post(machine_id, "cordon")

    def uncordon(self, machine_id: str) -> Machine:
        """Let it be used again; takes a drain back, too."""
        return self._post(machine_id, "uncordon")

    def drain(self, machine_id: str, *, now: bool = False) -> Machine:
        """Cordon it and replace what runs there; Jobs and Containers come to their own end, unless ``now``."""
        return self._post(machine_id, "drain", {"now": now})

    def declare_lost(self, machine_id: str) -> Machine:
        """Replace at once what ran on a machine that does not answer."""
        return self._post(machine_id, "lost")

    def blacklist(self, machine_id: str, *, minutes: int = 24 * 60, comment: str = "") -> Blacklisted:
        """Place nothing of the account there for a time."""
        body = {"expire_in_minutes": minutes, "comment": comment}
        path = f"/blacklist/{quote(machine_id, safe='')}"
        return _blacklisted(self._muster("PUT", path, body, named=("machine", machine_id)))

    def unblacklist(self, machine_id: str) -> Blacklisted:
        """Allow it again."""
        path = f"/blacklist/{quote(machine_id, safe='')}"
        return _blacklisted(self._muster("DELETE", path, named=("blacklisted machine", machine_id)))

    def blacklisted(self) -> list[Blacklisted]:
        """Return what the account keeps off now, by machine."""
        return [_blacklisted(row) for row in self._muster("GET", "/blacklist")["machines"]]

    def _post(self, machine_id: str, verb: str, body: Mapping[str, Any] | None = None) -> Machine:
        path = f"/machines/{quote(machine_id, safe='')}/{verb}"
        return wire.machine(self._muster("POST", path, body or {}, named=("machine", machine_id)))


def _blacklisted(row: Mapping[str, Any]) -> Blacklisted:
    return Blacklisted(
        machine_id=row["machine_id"],
        data_center=row["data_center"],
        comment=row["comment"],
        created_at=wire.time(row["created_at"]),
        expires_at=wire.time(row["expires_at"]),
    )
