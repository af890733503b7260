"""Restricts the data of training jobs to the data roots that the server was started with."""

import os
from collections.abc import Sequence
from pathlib import Path

from registry.errors import BadRequest, NotAllowed, NotFound
from registry.quoted import quoted


def resolve_data(data: str, roots: Sequence[Path]) -> Path:
    """The real path of `data`, with all links resolved; a relative one is looked up in each root.

    Raises:
        NotAllowed: it is outside every root; this does not reveal whether it exists.
        NotFound: it does not exist.
    """
    if not roots:
        raise NotAllowed("this server has no data roots; start it with --data-root PATH")
    if not data or "\0" in data:
        raise BadRequest(
            "data is empty or not a path; give a folder of class folders, a CSV or TSV file, or "
            "Parquet files"
        )
    real_roots = [Path(os.path.realpath(root)) for root in roots]
    paths = [Path(os.path.realpath(root / data)) for root in real_roots]
    allowed = [path for path in paths if any(path.is_relative_to(root) for root in real_roots)]
    if not allowed:
        raise NotAllowed(
            f"data {quoted(data, 200)} is outside the folders that this server may read; move it "
            "below one of them, or start the server with another --data-root"
        )
    # Path.exists would raise if a name is too long, or its folder not readable
    existing = [path for path in allowed if os.path.exists(path)]
    if not existing:
        raise NotFound(
            f"data {quoted(data, 200)} does not exist on the server; a relative path is looked up "
            "in each --data-root"
        )
    return existing[0]
