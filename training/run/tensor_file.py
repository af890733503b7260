"""Writes safetensors files crash-safely, and readable for others."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.run.whole_files import written_whole


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> None:
    """`path` holds the tensors, and what is said `about` them, on the disk.

    Raises:
        OSError: it cannot be written, as when the disk is full; what was there stays.
    """
    with written_whole(path) as file:
        try:
            save_file(dict(tensors), file, metadata=dict(about) if about else None)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        # for whom new files are; safetensors would let nobody else read it
        file.chmod(file.parent.stat().st_mode & 0o666)
