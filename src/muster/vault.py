"""The vault: encrypts what must not lie readable in the database, with a key that lies outside of it.

In: texts that are secret. Out: texts that may be stored, and back. The key is a file of the home, made with the first
secret and readable by its owner only, so that a copy of the database, of its backup or of a log tells nothing. Who can
read the home can read the secrets: the server must be able to use them without anybody present.

Fernet (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec) notices a wrong key and an altered text. Refused:
a key derived from a passphrase, because a server that was restarted at night would wait for somebody to type it.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from muster.errors import SetupError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_ANEW = "restore the file, or enter anew what it protects (muster image login)"


class Vault:
    """Seals and opens texts with the key in a file. Safe for several threads, and for several processes on one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: Fernet | None = None

    def seal(self, text: str) -> str:
        """Encrypt; the first call makes the key. Raises ``SetupError`` for a key that cannot or must not be used."""
        if self._key is None:
            with contextlib.suppress(FileExistsError):
                self._make()
        return self._load().encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Decrypt. Raises ``SetupError`` when the key is not the one that it was sealed with, or is gone."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 most servers keep no secrets

        try:
            return self._load().decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise SetupError(f"{self._path}: is not the key that secrets were encrypted with; {_ANEW}") from error

    def _load(self) -> "Fernet":
        if self._key is not None:
            return self._key
        from cryptography.fernet import Fernet  # noqa: PLC0415

        try:
            with self._path.open(encoding="ascii") as file:
                mode = os.fstat(file.fileno()).st_mode
                key = file.read().strip()
            loaded = Fernet(key)
        except FileNotFoundError as error:
            raise SetupError(f"{self._path}: the key that secrets were encrypted with is gone; {_ANEW}") from error
        except OSError as error:
            raise SetupError(f"{self._path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SetupError(f"{self._path}: holds no key; {_ANEW}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SetupError(f"{self._path}: others may read the key in it; run: chmod 600 {self._path}")
        self._key = loaded
        return loaded

    def _make(self) -> None:
        """Write a new key, whole or not at all, and never over another. Raises ``FileExistsError`` if there is one."""
        if self._path.exists():
            raise FileExistsError(self._path)
        try:
            from cryptography.fernet import Fernet  # noqa: PLC0415
        except ImportError as error:
            raise SetupError("keeping secrets needs: pip install 'muster-gpu[server]'") from error

        draft: str | None = None
        try:
            descriptor, draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(Fernet.generate_key() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, self._path)  # unlike a rename it fails where somebody was faster
        except FileExistsError:
            raise
        except OSError as error:
            raise SetupError(f"{self._path}: cannot be written: {error.strerror}") from error
        finally:
            if draft is not None:
                Path(draft).unlink()
