"""Weights that an ONNX model keeps in another file, as torch.onnx.export writes them.

The model names that file itself, and models come from strangers, so it must be a plain file beside
the model: no path, no link, no device.
"""

import json
import os
import shlex
import stat
from pathlib import Path
from typing import IO

from onnx import ModelProto, TensorProto

from registry.errors import BadRequest
from training.foreign.graph import all_tensors


def merge_external(proto: ModelProto, path: Path, max_bytes: int) -> tuple[Path, ...]:
    """Reads all weights of the model in `path` into `proto`; returns the other files that they
    came from.

    Args:
        max_bytes: of the model with its weights.

    Raises:
        BadRequest: a file is not a plain one beside the model or does not hold what the model says,
            or the model is too large.
    """
    outside = [
        tensor for tensor in all_tensors(proto) if tensor.data_location == TensorProto.EXTERNAL
    ]
    files: dict[str, IO[bytes]] = {}
    left = max_bytes - path.stat().st_size
    try:
        for tensor in outside:
            at = {entry.key: entry.value for entry in tensor.external_data}
            name = at.get("location", "")
            if name not in files:
                files[name] = _open_beside(path, name)
            start, length = _extent(tensor.name, at, files[name], path)
            left -= length
            if left < 0:
                raise BadRequest(
                    f"{path}: more than {max_bytes / 2**30:.1f} GiB with its weights, and an ONNX "
                    "file ends at 2 GiB; export the model in float16"
                )
            files[name].seek(start)
            tensor.raw_data = files[name].read(length)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    finally:
        for file in files.values():
            file.close()
    return tuple(path.with_name(name) for name in sorted(files))


def _open_beside(path: Path, name: str) -> IO[bytes]:
    if not name or name != os.path.basename(name) or name in (".", "..") or set(name) & set("\\\0"):
        raise _refused(path, name, "which is not the name of a file beside it")
    try:
        # a link is not followed, and a pipe not waited for
        descriptor = os.open(path.with_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = "a link" if path.with_name(name).is_symlink() else error.strerror
        raise _refused(path, name, f"which cannot be read ({why})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path, name, "which is not a plain file")
    return os.fdopen(descriptor, "rb")


def _extent(tensor: str, at: dict[str, str], file: IO[bytes], path: Path) -> tuple[int, int]:
    """Where in the file the tensor begins, and how many bytes it has."""
    size = os.fstat(file.fileno()).st_size
    try:
        start = int(at.get("offset", "0"))
        length = int(at.get("length", str(size - start)))
    except ValueError:
        start, length = -1, 0
    if start < 0 or length < 0 or start + length > size:
        extent = f"offset {at.get('offset', '0')}, length {at.get('length', 'to the end')}"
        raise BadRequest(
            f"{path}: tensor {tensor} ({extent}) does not lie within {at['location']}, which has "
            f"{size} bytes; copy or export both files again"
        )
    return start, length


def _refused(path: Path, name: str, why: str) -> BadRequest:
    merged = path.with_name(f"{path.stem}-merged.onnx")
    source, target = json.dumps(str(path)), json.dumps(str(merged))
    code = f"import onnx; onnx.save(onnx.load({source}), {target})"
    return BadRequest(
        f"{path}: keeps its weights in {name!r}, {why}; put it there, export the model with "
        f"external_data=False, or merge them: python -c {shlex.quote(code)}"
    )
