"""Files that are written completely or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a complete file or nothing, even if the process is killed or the disk is full.

    Args:
        path: the file to write or replace.
        contents: text, written as UTF-8, or bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = contents.encode("utf-8") if isinstance(contents, str) else contents
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Before the rename: after a power cut the name must not refer to an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
