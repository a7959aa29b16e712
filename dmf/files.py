"""Write a file completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["complete_file"]


@contextlib.contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, and rename it to `path` once it is written.

    A reader of `path` finds the old content or all of the new, never a part, also when the process is killed. After an
    error the old content stays and nothing else is left behind. The temporary file is hidden, lies in the same folder,
    which must exist, and has the suffix of `path`, since some writers choose the format by it. Its name is different in
    each call, so that several processes may write the same file.

    Args:
        path: the file; if it exists it is replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with complete_file(Path(folder, "run.json")) as partial:
    ...         _ = partial.write_text("{}")
    ...     [file.name for file in Path(folder).iterdir()]
    ['run.json']
    """
    target = Path(path)
    partial = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more than one of the cleanup
            partial.unlink()
        raise
