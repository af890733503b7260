"""Parquet and Arrow files of encoded images, as Hugging Face's `datasets` writes them.

    image    bytes, or a struct {bytes, path}
    label    a name, a number with its name in the file's metadata, or a list of either

They are unpacked once into files and a table, which then is read like any other.
"""

import csv
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.errors import DataError
from registry.files import sha256_file
from training.data.items import PARTS

SEPARATOR = "\x1f"  # between labels in the table: names may have any character people type
SUFFIXES = {".parquet", ".arrow"}
KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}
ARROW_FILE = b"ARROW1"  # how Arrow's files begin, and its streams do not
BATCH = 256  # rows in memory at once


def packed_files(source: Path) -> list[Path]:
    """The Parquet or Arrow files that `source` is, or has in it or in its data/; or none."""
    if source.is_dir():
        found = [*source.glob("*"), *source.glob("data/*")]
        return sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    return [source] if source.suffix.lower() in SUFFIXES else []


def unpack(files: list[Path], cache: Path) -> Path:
    """A table in `cache` of the images of `files`, made once for the same content.

    Raises:
        DataError: pyarrow is not installed, or the columns are not those above.
    """
    if find_spec("pyarrow") is None:
        raise DataError(f"{files[0]}: needs pyarrow; pip install 'unfreeze[parquet]'")
    named = list(zip(files, _names(files), strict=True))
    digest = hashlib.sha256("".join(f"{name} {sha256_file(file)}" for file, name in named).encode())
    folder = cache / f"unpacked-{digest.hexdigest()}"
    table = folder / "labels.csv"
    if not table.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        folder.mkdir(parents=True)
        rows = [row for file, name in named for row in _unpack_file(file, name, folder)]
        partial = folder / "labels.partial"
        with partial.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["file", "label", "split"], *rows])
        partial.replace(table)
    return table


def _names(files: list[Path]) -> list[Path]:
    """What each file's images are called by: its own name, below the number of its place where
    another has the same stem."""
    n_of = Counter(file.stem for file in files)
    return [
        Path(str(place), file.name) if n_of[file.stem] > 1 else Path(file.name)
        for place, file in enumerate(files)
    ]


def _unpack_file(file: Path, called: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Writes the file's images; gives name, labels and part of each."""
    from pyarrow import ArrowException

    found = re.match(r"[a-z]+", file.stem)
    part = PARTS.get(found.group(), "") if found else ""
    number = 0
    (folder / called).parent.mkdir(exist_ok=True)
    try:
        for batch in _batches(file):
            columns = set(batch.schema.names)
            if not {"image", "label"} <= columns:
                raise DataError(
                    f"{file}: has the columns {', '.join(sorted(columns))}; "
                    "there have to be image and label"
                )
            names = _class_names(batch.schema.metadata or {})
            images, labels = (batch.column(name).to_pylist() for name in ("image", "label"))
            for image, label in zip(images, labels, strict=True):
                encoded = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(encoded, bytes):
                    raise DataError(f"{file}, row {number}: no encoded image, but {encoded!r:.60}")
                name = f"{called.with_suffix('')}-{number:07d}{_suffix(encoded)}"
                (folder / name).write_bytes(encoded)
                yield name, _labels(label, names), part
                number += 1
    except (ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _batches(file: Path) -> Iterator[Any]:
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.ParquetFile(file).iter_batches(BATCH)
    else:
        import pyarrow

        with pyarrow.memory_map(str(file)) as source:
            for batch in _arrow_batches(source):
                yield from (batch[row : row + BATCH] for row in range(0, len(batch), BATCH))


def _arrow_batches(source: Any) -> Iterator[Any]:
    """Of Arrow's stream, which `datasets` writes, or of its file, as pyarrow.feather does."""
    import pyarrow.ipc

    if source.read_at(len(ARROW_FILE), 0) == ARROW_FILE:
        file = pyarrow.ipc.open_file(source)
        yield from map(file.get_batch, range(file.num_record_batches))
    else:
        yield from pyarrow.ipc.open_stream(source)


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """What `datasets` says a number means, or nothing."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    label = features.get("label", {})
    label = label.get("feature", label) if isinstance(label, dict) else label[0]
    return list(label.get("names", []))


def _labels(label: Any, names: list[str]) -> str:
    values = label if isinstance(label, list) else [label]
    return SEPARATOR.join(
        names[value] if names and isinstance(value, int) and value >= 0 else str(value)
        for value in values
        if value is not None and not (value == -1 and names)  # as `datasets` marks "no label"
    )


def _suffix(encoded: bytes) -> str:
    return next((kind for start, kind in KINDS.items() if encoded.startswith(start)), ".jpg")
