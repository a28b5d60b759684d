"""Files appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name in the folder of `path`; what was written there takes the place of `path` at the end.

    On an exception the temporary file goes and `path` stays as it was. Raises `OSError` where the folder cannot be
    written.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> None:
    """Raises `OSError`, in one sentence, where `path` could not be written: before the work, not after it."""
    path = Path(path)
    # os.path's, because Path.is_dir raises for a name too long.
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it.")
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}; make it first.")
    probe = _temporary(path)
    try:
        # Permissions do not tell everything: a full disk or a name too long shows only when a file is written.
        probe.write_bytes(b"fastsync")
        probe.unlink()
    except OSError as error:
        raise type(error)(f"{path} cannot be written ({error.strerror}); choose another place.") from error


def _temporary(path: Path) -> Path:
    # Not tempfile's: that makes files which only their owner may read, and the mode would outlive the renaming. The
    # suffix stays, because image writers tell the format by it.
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
