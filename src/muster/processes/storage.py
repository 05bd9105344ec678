"""The file storage as the settings say it: a shared mount that the operator named, or a folder of the home."""

from muster.config import Settings
from muster.files import FileStorage

FILES = "files"


def file_storage(settings: Settings) -> FileStorage:
    """Return the storage; nothing is touched, so a mount that is not there yet keeps nobody from starting."""
    named = settings.file_storage
    return FileStorage(named or settings.home / FILES, needs_marker=named is not None, public=settings.public_data)
