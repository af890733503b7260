"""The rows of Parquet and Arrow files, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARROW_FILE = b"ARROW1"  # how Arrow's files begin, and its streams do not
BATCH = 256  # rows in memory at once


def batches_of(file: Path) -> Iterator[Any]:
    """Its rows as pyarrow's record batches."""
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
