"""The last table, as a file: what the ingress begins with while, or although, there is no server.

It is written before a table is put in force, so that whatever was acknowledged is what a killed ingress comes back
with: a container that was told to be refusing does not accept again. It holds hashes of passwords and nothing that is
not in the table; only its owner may read it. A file that cannot be read is no reason not to start: the server knows.
"""

import logging
from pathlib import Path

from muster.errors import InvalidSpec, SetupError
from muster.home import write_text
from muster.model.routes import RouteTable

FOLDER = "ingress"
FILE = "routes.json"
_log = logging.getLogger(__name__)


class Snapshot:
    """The file in a home; one process uses it."""

    def __init__(self, home: Path) -> None:
        self.path = home / FOLDER / FILE
        self._trouble = ""

    def read(self) -> RouteTable | None:
        """Return the last table, ``None`` with a warning if there is none that can be understood."""
        try:
            for draft in self.path.parent.glob(f".{FILE}.*"):  # of one that was killed while it wrote
                draft.unlink(missing_ok=True)
            return RouteTable.from_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, InvalidSpec) as error:
            _log.warning("%s: %s; starting without it: addresses open when the server answers", self.path, error)
            return None

    def write(self, text: str) -> None:
        """Replace the table by one in its JSON form; when that fails the table is used all the same, with a warning."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_text(self.path, text)
        except (OSError, SetupError) as error:
            if str(error) != self._trouble:
                _log.warning("%s; if the ingress is killed now, it comes back with an older table", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
