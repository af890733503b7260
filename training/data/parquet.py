"""Parquet and Arrow files of encoded images, as Hugging Face's `datasets` writes them.

    image    bytes, or a struct {bytes, path}; also called img
    label    a name, a number with its name in the file's metadata, or a list of either; also called
             labels, class, category or target
    others   of single values, as in a table: split, is_valid, weight, or the setting `group`

They are unpacked once into files and a table, which then is read like any other; a full cache may
lose them, but not while they are used. Where no column says which part an image belongs to, the
names of several files may: train-00000-of-00001.parquet.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.errors import DataError
from registry.files import sha256_file
from registry.quoted import quoted
from training.data.arrow_batches import batches_of
from training.data.cache_eviction import UNPACKED_TABLE, hold, make_room
from training.data.columns import FILE, IMAGE, IS_VALID, LABEL, SPLIT, find_name
from training.data.items import PARTS, SEPARATOR, Part
from training.run.whole_files import written_whole

UNPACKED = "3: whole or not at all"  # how; changed with it, as what was unpacked before is kept
LONGEST = 1000  # characters of a cell in another column: captions may be of any length
SUFFIXES = {".parquet", ".arrow"}
KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}


def packed_files(source: Path) -> list[Path]:
    """The Parquet or Arrow files that `source` is, or has in it or in its data/; or none."""
    if source.is_dir():
        found = [*source.glob("*"), *source.glob("data/*")]
        return sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    return [source] if source.suffix.lower() in SUFFIXES else []


def unpack(
    files: list[Path], cache: Path, note: Callable[[str], None] = lambda text: None
) -> tuple[Path, object]:
    """A table in `cache` of the images of `files`, made once for the same content, and what keeps
    both from being evicted while it lives.

    Args:
        note: called with what was evicted from the cache.

    Raises:
        DataError: pyarrow is not installed, or the columns are not those above.
    """
    if find_spec("pyarrow") is None:
        raise DataError(f"{files[0]}: needs pyarrow; pip install 'unfreeze[parquet]'")
    named = list(zip(files, _names(files), strict=True))
    contents = (f"{name} {sha256_file(file)}" for file, name in named)
    digest = hashlib.sha256("\n".join([UNPACKED, *contents]).encode())
    folder = cache / f"unpacked-{digest.hexdigest()}"
    table = folder / UNPACKED_TABLE
    while (held := hold(table)) is None:  # again, if another removed it meanwhile
        make_room(cache, sum(file.stat().st_size for file in files), note)
        try:
            with written_whole(folder) as fresh:
                fresh.mkdir()
                _unpack_into(fresh, named)
        except OSError:
            if not table.exists():  # else another has unpacked them meanwhile
                raise
    return table, held


def _unpack_into(folder: Path, named: list[tuple[Path, Path]]) -> None:
    """`folder` has the images, and the table of them."""
    files = [file for file, _ in named]
    rows = [
        row
        for (file, name), part in zip(named, named_parts(files), strict=True)
        for row in _unpack_file(file, name, folder, part)
    ]
    if not rows:
        raise DataError(f"{files[0]}: no rows")
    with (folder / UNPACKED_TABLE).open("w", newline="", encoding="utf-8") as out:
        header = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(out, header, restval="")
        writer.writeheader()
        writer.writerows(rows)


def named_parts(files: list[Path]) -> list[Part | None]:
    """The part that each file's name says, whatever its capitals: by the last word that is one, as
    `datasets` writes NAME-SPLIT-00000-of-00002.

    None for all where no part is told from another: the data set may be called crash_test.
    """
    parts = []
    for file in files:
        words = re.findall(r"[a-z]+", file.stem.casefold())
        parts.append(next((PARTS[word] for word in reversed(words) if word in PARTS), None))
    apart = len(files) > 1 and set(parts) not in ({"valid"}, {"test"})
    return parts if apart else [None] * len(files)


def _names(files: list[Path]) -> list[Path]:
    """The path that the names of each file's images begin with: the file's own name, in a folder
    called by its number if another file has the same stem."""
    n_of = Counter(file.stem for file in files)
    return [
        Path(str(place), file.name) if n_of[file.stem] > 1 else Path(file.name)
        for place, file in enumerate(files)
    ]


def _unpack_file(
    file: Path, called: Path, folder: Path, part: Part | None
) -> Iterator[dict[str, str]]:
    """Writes the file's images; gives the table's row of each."""
    from pyarrow import ArrowException

    number = 0
    (folder / called).parent.mkdir(exist_ok=True)
    try:
        for batch in batches_of(file):
            columns = batch.schema.names
            image_column, label_column = (find_name(columns, name) for name in (IMAGE, LABEL))
            if image_column is None or label_column is None:
                raise DataError(
                    f"{file}: has the columns {', '.join(sorted(columns))}; "
                    "there have to be image and label"
                )
            names = _class_names(batch.schema.metadata or {}, label_column)
            images = batch.column(image_column).to_pylist()
            labels = batch.column(label_column).to_pylist()
            others = _others(batch, {image_column, label_column})
            for image, label, other in zip(images, labels, others, strict=True):
                encoded = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(encoded, bytes):
                    raise DataError(
                        f"{file}, row {number}: no encoded image, but {quoted(encoded, 60)}; put "
                        "the image files themselves into the column, or name them in a CSV"
                    )
                name = f"{called.with_suffix('')}-{number:07d}{_suffix(encoded)}"
                (folder / name).write_bytes(encoded)
                row = {FILE: name, LABEL: _labels(label, names), SPLIT: ""}
                yield row | other | {SPLIT: _split(file, number, other, part)}
                number += 1
    except (ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _others(batch: Any, known: set[str]) -> list[dict[str, str]]:
    """Each row's cells in the columns of single values beside the `known` ones of image and label;
    the one of parts is called split."""
    split = find_name(batch.schema.names, SPLIT)
    others: list[dict[str, str]] = [{} for _ in range(batch.num_rows)]
    for place, field in enumerate(batch.schema):
        known_name = field.name in known or field.name.strip().casefold() in (FILE, LABEL)
        if known_name or not _is_single(field.type):
            continue
        names = _class_names(batch.schema.metadata or {}, field.name)
        column = batch.column(place) if names else batch.column(place).cast("string")
        for row, value in zip(others, column.to_pylist(), strict=True):
            row[SPLIT if field.name == split else field.name] = _labels(value, names)[:LONGEST]
    return others


def _is_single(kind: Any) -> bool:
    """Whether each cell of a column of this type is one value that people can read."""
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        is_one(value)
        for is_one in (
            types.is_boolean,
            types.is_integer,
            types.is_floating,
            types.is_decimal,
            types.is_string,
            types.is_large_string,
            types.is_date,
        )
    )


def _split(file: Path, number: int, row: dict[str, str], part: Part | None) -> str:
    """The row's part by its own column split, or else by the file's name; empty where is_valid says
    it. What a file's name says is held out or tested stays so."""
    given = row.get(SPLIT, "").strip()
    if given and part in ("valid", "test") and PARTS.get(given.casefold()) != part:
        raise DataError(
            f"{file}, row {number}: split is {given!r}, but by the file's name it is {part}; "
            "rename the file or change the column"
        )
    says = find_name(list(row), IS_VALID)
    if not given and part == "train" and says is not None and row[says]:
        return ""
    return given or part or ""


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """What `datasets` says a number in the column means, or nothing."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    label = features.get(column, {})
    label = label.get("feature", label) if isinstance(label, dict) else label[0]
    return list(label.get("names", []))


def _labels(label: Any, names: list[str]) -> str:
    values = label if isinstance(label, list) else [label]
    return SEPARATOR.join(
        names[value] if names and isinstance(value, int) and value >= 0 else str(value)
        for value in values
        # as `datasets` marks "no label", and as NumPy does: NaN is unlike itself
        if value is not None and not (value == -1 and names) and value == value
    )


def _suffix(encoded: bytes) -> str:
    return next((kind for start, kind in KINDS.items() if encoded.startswith(start)), ".jpg")
