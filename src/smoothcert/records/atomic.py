"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a whole file or nothing, whatever kills the process or fills the disk.

    Args:
        path: the file to write or replace.
        contents: what it will hold; text is written as UTF-8.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = contents.encode("utf-8") if isinstance(contents, str) else contents
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            # Before the name is: after a power cut it must not stand for an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
