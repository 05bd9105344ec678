"""The file storage of accounts: where it lies, and what may be done to it from outside containers.

``storage`` says which folder of this host belongs to which account in which data center, and refuses a mount that is
not there. ``tree`` lists, reads, writes and removes inside one such folder, whatever the containers that share it have
planted there; ``content`` and ``removal`` are the longer half of that. ``faults`` says in our errors what the file
system says, ``folder`` is how one gets down a level.

Everything here blocks and is called in threads.
"""

from muster.files.content import OpenFile, Upload
from muster.files.entry import Entry, Kind, Listing
from muster.files.storage import MARKER, FileStorage
from muster.files.tree import FileTree

__all__ = ["MARKER", "Entry", "FileStorage", "FileTree", "Kind", "Listing", "OpenFile", "Upload"]
