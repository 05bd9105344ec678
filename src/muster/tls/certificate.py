"""Which certificate the ingress shows, and the next one in time.

In: two files of the operator's, or none, and then the installation's own authority signs. Out: one TLS context for the
life of the process. Whatever goes wrong after the start keeps the certificate in force: it is logged once and told by
``problem``. Connections never notice a change; new ones are shown the new certificate.

The operator's files are looked at every few seconds and read when they changed and then stood still for one look, so
that two files that are replaced one after the other are not taken for a pair that does not match. Refused: inotify,
which does not see a change behind a link (certbot, Kubernetes) or on a network file system.
"""

import asyncio
import datetime
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Self

from muster.clock import Clock
from muster.errors import SetupError
from muster.tls.context import ReplaceableContext
from muster.tls.leaf import SERVER, OwnLeaf
from muster.tls.names import general_name, uncovered
from muster.tls.pair import Pair, read_pair

LOOK_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Certificates:
    """Made by ``open``. ``problem`` is empty, or says in one line why the certificate in force is not a better one."""

    def __init__(self, source: "OwnLeaf | GivenFiles", pair: Pair) -> None:
        self.context = ReplaceableContext(pair)
        self.problem = ""
        self._source = source
        self._pair = pair

    @classmethod
    def open(
        cls, home: Path, *, names: Collection[str], certificate: Path | None, key: Path | None, leaf: str = SERVER
    ) -> Self:
        """Return the certificates to begin with; ``leaf`` is what the files of an own one are called.

        ``names`` are what clients will connect to: host names, IP addresses, ``*.domain``. With ``certificate`` and
        ``key``, files of the operator's, they are only compared. Raises ``SetupError``, one line that names the file.
        """
        now = datetime.datetime.now(datetime.UTC)
        if certificate is None or key is None:
            if certificate is not None or key is not None:
                raise SetupError(f"{certificate or key}: a certificate needs its key: set tls_certificate and tls_key")
            own = OwnLeaf(home, names, leaf)
            return cls(own, own.open(now))
        given = GivenFiles(certificate, key)
        pair = given.open(now)
        given.compare(names)
        return cls(given, pair)

    @property
    def expires_at(self) -> datetime.datetime:
        """When the certificate in force ends."""
        return self._pair.expires_at

    def add_names(self, names: Collection[str]) -> None:
        """Be valid for these names too, where the authority is our own; what fails is told by ``problem``."""
        try:
            self._take(self._source.add_names(names, datetime.datetime.now(datetime.UTC)))
        except SetupError as error:
            self._tell(str(error))

    async def run(self, clock: Clock) -> None:
        """Renew, or take over what the operator renewed, for ever."""
        while True:
            await clock.sleep(LOOK_SECONDS)
            await self.look(clock.now())

    async def look(self, now: datetime.datetime) -> None:
        """Do what is due at ``now``."""
        try:
            pair = await self._source.look(now)
            if pair is None:
                return
            self._take(pair)
        except SetupError as error:
            self._tell(f"{error}; in force stays the certificate that ends at {self.expires_at:%Y-%m-%d %H:%M} UTC")
            return
        self._tell(f"the certificate expired at {self.expires_at:%Y-%m-%d %H:%M} UTC" if now >= self.expires_at else "")

    def _take(self, pair: Pair) -> None:
        if pair is not self._pair:
            self.context.replace(pair)
            self._pair = pair
            _log.info("a new certificate is in force, until %s", pair.expires_at.isoformat(timespec="minutes"))

    def _tell(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem


class GivenFiles:
    """The operator's certificate and key: somebody else renews them."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._pair: Pair | None = None
        self._read_as: object = None
        self._seen_as: object = None

    def open(self, now: datetime.datetime) -> Pair:
        """Read them. Raises ``SetupError``."""
        self._seen_as = seen = self._stamp()
        self._pair = read_pair(self._certificate, self._key, now)
        self._read_as = seen
        return self._pair

    async def look(self, now: datetime.datetime) -> Pair | None:
        """Return what is to be in force, ``None`` while somebody is changing the files. Raises ``SetupError``."""
        stamp = self._stamp()
        is_steady, self._seen_as = stamp == self._seen_as, stamp
        if stamp == self._read_as:
            return self._pair
        if not is_steady:
            return None
        pair = await asyncio.to_thread(read_pair, self._certificate, self._key, now)  # it may be a slow file system
        self._pair, self._read_as = pair, stamp
        return pair

    def add_names(self, names: Collection[str], now: datetime.datetime) -> Pair:
        """Say which of them clients will not accept it for; nothing else can be done here."""
        del now
        assert self._pair is not None
        self.compare(names)
        return self._pair

    def compare(self, names: Collection[str]) -> None:
        """Log which names the certificate is not valid for."""
        assert self._pair is not None
        missing = uncovered(self._pair.certificate, [general_name(name) for name in names])
        if missing:
            shown = ", ".join(str(each.value) for each in missing)
            _log.warning("%s: is not valid for %s: clients will refuse these addresses", self._certificate, shown)

    def _stamp(self) -> object:
        """Return what changes with the files, also behind links and with the right to read them."""
        found: list[tuple[int | None, ...]] = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
                found.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
            except OSError as error:
                found.append((error.errno,))
        return found
