"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give the block a fresh path to write to, then rename it to `path`.

    Where the block raises, or the process dies, `path` is what it was before: absent, or the old
    file. The partial file lies in the same folder, because a rename is atomic only within one file
    system; it is removed when the block raises.

        with written_whole("plan.json") as partial:
            partial.write_text(text)

    Raises `FileNotFoundError` where the folder does not exist, `IsADirectoryError` where `path` is
    one, before the block runs.
    """
    path = Path(path)
    # Told here, for otherwise the message would name the partial file.
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder does not exist", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file name", str(path))
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            # Without this a power cut may leave the new name with none of the bytes.
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Makes a new name outlast a power cut, too, where folders can be flushed."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
