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
    """Writes the tensors, and the metadata `about` them, durably to `path`.

    Raises:
        OSError: it cannot be written, for example because the disk is full; an old file stays.
    """
    with written_whole(path) as file:
        try:
            save_file(dict(tensors), file, metadata=dict(about) if about else None)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        # as readable as other new files; safetensors would let nobody else read it
        file.chmod(file.parent.stat().st_mode & 0o666)
