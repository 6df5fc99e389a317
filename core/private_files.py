"""How are folders and files made that only the server's user may read? Whatever the umask is."""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o700
PASSABLE = 0o711
"""Folders above the data of a server that runs as root: the embedded database's user passes, and lists nothing."""


def make_data_folder(folder: Path) -> None:
    """The folder, with those above it that are missing. One that exists stays as it is: it is its owner's to close."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=PRIVATE)
            if os.geteuid() == 0:
                each.chmod(PASSABLE)


def make_private_folder(folder: Path) -> None:
    """A folder of the server's own, closed to others also where it exists. A link is an operator's choice: it stays."""
    make_data_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE)
    if not folder.is_symlink() and folder.stat().st_mode & 0o077:
        with contextlib.suppress(PermissionError):  # It is another user's.
            folder.chmod(PRIVATE)


def open_private(path: Path) -> BinaryIO:
    """A new or emptied file to write to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "wb")
