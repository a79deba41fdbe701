"""Reading run folders of unknown origin: no links out of the folder, regular files, bounded sizes.

Attacks: a link could show, copy or overwrite a file of the user; a FIFO makes a command wait for
ever; a file of a terabyte takes a few bytes in an archive.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from glob import glob
from pathlib import Path

from smoothcert.errors import RecordsError

LARGEST_TEXT = 32 * 2**20
"""Bytes of settings or a summary: the images of a shard may be listed one by one."""
LARGEST_TABLE = 2**30
"""Bytes of a certificate file: some ten million rows."""
HYDRA = ".hydra"
"""The folder by which a run folder is recognized."""
LINKING = "wandb"
"""W&B's folder in a run folder; it has links to logs elsewhere, renamed with each run."""


def require_regular(path: Path) -> None:
    """Raise unless a path is a regular file, or a link to one: opening a FIFO would never end.

    Args:
        path: the file.

    Raises:
        OSError: if it is something else, or does not exist.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "expected a regular file", str(path))


def read_bounded(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """Return the bytes of a regular file that is not larger than expected.

    Args:
        path: the file, or a link to it.
        most: the largest size, in bytes.

    Raises:
        OSError: if it is something else, larger, or cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "summary.json"
        >>> _ = path.write_text("{}")
        >>> read_bounded(path)
        b'{}'
    """
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"expected at most {most:,} bytes", str(path))
    return content


def check_links(run: Path, nested: bool = True) -> None:
    """Refuse a run folder with links that lead out of it, FIFOs, devices or sockets.

    Args:
        run: the run folder, which may itself be a link, or not exist yet.
        nested: whether to check all folders in it, or only the files directly in it.

    Raises:
        RecordsError: if there is one; the message names it.

    Example:
        >>> import tempfile
        >>> check_links(Path(tempfile.mkdtemp()))
    """
    for path in _entries(run) if nested else _files(run):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            if not lies_in(run, path):
                raise RecordsError(
                    f"Expected files in the run folder {run}, got {path}, a link to "
                    f"{os.path.realpath(path)}. Replace the link by the file, or remove it"
                )
        elif not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
            raise RecordsError(
                f"Expected files in the run folder {run}, got {path}, which is not a regular file. "
                "Remove it"
            )


def _entries(run: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(run):
        if Path(place) == run:
            folders[:] = [name for name in folders if name != LINKING]
        yield from (Path(place, name) for name in (*folders, *files))


def _files(run: Path) -> Iterator[Path]:
    if run.is_dir():
        yield from (path for path in run.iterdir() if not path.is_dir())


def run_left_by(path: Path) -> Path | None:
    """Return the run folder that a path is in by name but leaves through a link, if any.

    Args:
        path: any path; a run folder may itself be a link.
    """
    run = next((each for each in path.absolute().parents if (each / HYDRA).is_dir()), None)
    return run if run is not None and not lies_in(run, path) else None


def paths_matching(pattern: str) -> list[Path]:
    """Return the paths that match a glob, `**` for any depth, without hidden files and folders.

    Each folder is entered once, even if several links lead to it, and never through a link that
    leads out of a run folder: `glob.glob` would follow two links to their own folder for ever.

    Args:
        pattern: the glob.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "sweep" / "run").mkdir(parents=True)
        >>> [path.name for path in paths_matching(f"{folder}/**/run")]
        ['run']
    """
    head, stars, tail = pattern.partition("**")
    if not stars or head[-1:] not in ("", "/") or tail[:1] not in ("", "/"):
        return [Path(path) for path in glob(pattern)]  # noqa: PTH207
    wanted = ["**", *(part for part in tail.split("/") if part)]
    return [
        path
        for start in glob(head or ".")  # noqa: PTH207
        for path in _walk(Path(start))
        if _fits(path.relative_to(start).parts, wanted) and path.parts
    ]


def _walk(start: Path) -> Iterator[Path]:
    yield start
    seen: set[str] = set()
    folders, links = [start], []
    while folders or links:
        # Links last: a folder is listed by its own name if that name matches, too.
        folder = folders.pop() if folders else links.pop()
        where = os.path.realpath(folder)
        if where in seen or not folder.is_dir() or run_left_by(folder):
            continue
        seen.add(where)
        with suppress(PermissionError):
            for path in folder.iterdir():
                if not path.name.startswith("."):
                    yield path
                    (links if path.is_symlink() else folders).append(path)


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[count:], patterns[1:]) for count in range(len(names) + 1))
    return bool(names) and fnmatch(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def lies_in(folder: Path, path: Path | str) -> bool:
    """Return whether a path is in a folder, or is the folder; links are followed.

    Args:
        folder: the folder.
        path: any path.

    Example:
        >>> lies_in(Path("/run"), "/run/a/../b"), lies_in(Path("/run"), "/run/../b")
        (True, False)
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
