"""Golden answers: a few images and the model's answers to them when it was exported.

They are part of the bundle. A version does not go live on a server that cannot reproduce them.
"""

import io
import itertools
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.counted import counted
from registry.errors import BundleError
from registry.files import read_plain, write_durably
from registry.images import Float32Array

# NumPy parses array headers with `ast.literal_eval`, which in Python 3.11 occasionally fails when
# two threads use it at once: https://github.com/python/cpython/issues/106905
PARSING = threading.Lock()
MAX_BYTES = 1 << 29  # unpacked; there are a few images, none larger than a request


@dataclass(frozen=True)
class Golden:
    """Encoded images and their probabilities, [n,classes]."""

    images: tuple[bytes, ...]
    probabilities: Float32Array


def write_golden(path: Path, images: Sequence[bytes], probabilities: Float32Array) -> None:
    """Writes the images, as one uint8 buffer with offsets, and their answers to `path`."""
    buffer = np.frombuffer(b"".join(images), dtype=np.uint8)
    offsets = np.cumsum([0, *(len(image) for image in images)])
    content = io.BytesIO()
    np.savez(content, images=buffer, offsets=offsets, probabilities=probabilities)
    write_durably(path, content.getvalue())


def read_golden(path: Path) -> Golden:
    """What `write_golden` wrote. Reading it never runs code from the file (no pickle).

    Raises:
        BundleError: the file is damaged or of another format.
    """
    try:
        content = io.BytesIO(read_plain(path, MAX_BYTES))
        with zipfile.ZipFile(content) as archive:
            if sum(one.file_size for one in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
        content.seek(0)
        with PARSING, np.load(content, allow_pickle=False) as arrays:
            buffer = arrays["images"].tobytes()
            offsets = arrays["offsets"].tolist()
            probabilities = arrays["probabilities"].astype(np.float32)
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise BundleError(f"{path}: golden answers cannot be read: {error}") from error
    images = tuple(buffer[a:b] for a, b in itertools.pairwise(offsets))
    if len(images) != len(probabilities) or not images:
        raise BundleError(
            f"{path}: {counted(len(images), 'image')} for {counted(len(probabilities), 'answer')}"
        )
    return Golden(images, probabilities)
