"""Opens the database file of the job records."""

import sqlite3
from pathlib import Path

from registry.errors import Unavailable

TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    state TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    job_id TEXT NOT NULL REFERENCES jobs(id),
    sequence INTEGER NOT NULL,
    at TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (job_id, sequence)
);
"""

# Other errors are of a full disk, a locked file or missing permissions.
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_database(path: Path) -> sqlite3.Connection:
    """The database with its tables; a committed transaction is durable.

    Raises:
        Unavailable: the file is damaged, and left untouched, or cannot be opened now.
    """
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in DAMAGED:
            raise Unavailable(f"{path}: the job database cannot be opened: {error}") from error
        raise Unavailable(
            f"{path}: the job database is damaged ({error}); restore a backup, or salvage what "
            f"is left with: sqlite3 {path} .recover | sqlite3 recovered.db"
        ) from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")  # acknowledged means on the disk
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("it failed the integrity check")
        db.executescript(TABLES)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db
