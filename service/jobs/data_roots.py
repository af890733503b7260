"""Which folders a training job may read: those below the roots that the server was started with."""

import os
from collections.abc import Sequence
from pathlib import Path

from registry.errors import BadRequest, NotAllowed, NotFound


def resolve_data(data: str, roots: Sequence[Path]) -> Path:
    """The real path of `data`, every link followed; a relative one is looked for in each root.

    Raises:
        NotAllowed: it is outside every root. Nothing is said of what is there.
        NotFound: there is nothing.
    """
    if not roots:
        raise NotAllowed("this server reads no training data; start it with --data-root PATH")
    if not data or "\0" in data:
        raise BadRequest(
            "data is empty or not a path; give a folder of class folders, a CSV or TSV, or Parquet "
            "files"
        )
    real_roots = [Path(os.path.realpath(root)) for root in roots]
    paths = [Path(os.path.realpath(root / data)) for root in real_roots]
    allowed = [path for path in paths if any(path.is_relative_to(root) for root in real_roots)]
    if not allowed:
        raise NotAllowed(
            f"data {data!r:.200} is outside the folders that this server may read; move it below "
            "one of them, or start the server with another --data-root"
        )
    # a Path would raise of one whose name is too long, or whose folder is closed to us
    existing = [path for path in allowed if os.path.exists(path)]
    if not existing:
        raise NotFound(
            f"data {data!r:.200} does not exist on the server; a relative path is looked for in "
            "each --data-root"
        )
    return existing[0]
