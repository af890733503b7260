"""`unfreeze data`: fetches archives of images, and audits a data set before training."""

import argparse
import math
import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from unfreeze.commands.shared import (
    FAILED,
    OK,
    Commands,
    UsageError,
    above_zero,
    add_command,
    add_json,
    add_settings,
    harmless,
    say,
    settings_of,
    show_json,
)
from unfreeze.fetch import FetchError, check_digest, check_url, digest_of, fetch, local_file
from unfreeze.safe_names import ArchiveError
from unfreeze.unpack import Limits, NotEnoughSpace, unpack

GIGABYTE = 1 << 30
AUDIT_NEEDS = ("numpy", "PIL", "pydantic", "sklearn", "matplotlib")


def add_to(commands: Commands) -> None:
    kinds = add_command(
        commands,
        "data",
        "fetch archives of images, audit data sets",
        "  unfreeze data fetch file:///mnt/scans.zip --into scans\n  unfreeze data audit photos/",
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_fetch(kinds)
    _add_audit(kinds)


def _add_fetch(commands: Commands) -> None:
    parser = add_command(
        commands,
        "fetch",
        "download an archive of images and unpack it safely",
        "  unfreeze data fetch https://example.org/birds.tar.gz --sha256 9f86d08… --into birds\n"
        "  unfreeze data fetch file:///mnt/scans.zip --into scans",
    )
    parser.add_argument("url", metavar="URL", help="https://, http:// or file:///; zip or tar")
    parser.add_argument(
        "--sha256",
        metavar="HEX",
        help="expected digest; with it an interrupted download can be resumed",
    )
    parser.add_argument(
        "--into", type=Path, required=True, metavar="FOLDER", help="a new or empty folder"
    )
    parser.add_argument(
        "--max-gigabytes",
        type=_gigabytes,
        default=100,
        metavar="N",
        help="limit on the download and on its unpacked size (100)",
    )
    add_json(parser, "folder, number of files and SHA-256 as JSON")
    parser.set_defaults(run=_fetch)


def _gigabytes(text: str) -> float:
    if math.isinf(number := above_zero(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return number


def _fetch(options: argparse.Namespace) -> int:
    folder, digest = options.into, options.sha256
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UsageError("--sha256 must be 64 hexadecimal digits")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists and is not empty; name another folder")
    try:
        check_url(options.url)
    except FetchError as error:
        raise UsageError(str(error)) from error
    limits = Limits(n_bytes=int(options.max_gigabytes * GIGABYTE))
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    if archive := local_file(options.url):
        found = _check_local(options.url, archive, digest)
        n_files = _unpack_local(archive, target, limits)
    else:
        archive = target.with_name(f".{target.name}.download")
        with _bar("  downloading", DownloadColumn(), TransferSpeedColumn()) as bar:
            task = bar.add_task("", total=None)
            found = fetch(
                options.url,
                archive,
                sha256=digest,
                max_bytes=limits.n_bytes,
                advance=lambda done, total: bar.update(task, completed=done, total=total),
            )
        n_files = _unpack_download(options.url, archive, found, target, limits)
    if options.json:
        show_json({"folder": folder, "files": n_files, "sha256": found})
    else:
        print(f"{n_files} {'file' if n_files == 1 else 'files'} in {folder}")
    if not digest:
        say(f"to make sure of the same files next time, add: --sha256 {found}")
    return OK


def _add_audit(commands: Commands) -> None:
    parser = add_command(
        commands,
        "audit",
        "audit a data set: unreadable files, duplicates, leaks, wrong labels, class balance",
        "  unfreeze data audit photos/\n"
        "  unfreeze data audit labels.csv --set images=train --set suffix=.jpg --strict",
    )
    parser.add_argument("source", type=Path, metavar="FOLDER_OR_TABLE")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("audit"),
        metavar="FOLDER",
        help="folder for the HTML page and its images (audit)",
    )
    add_settings(parser, "a setting for reading the data, as for training")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if there are problems, not just remarks"
    )
    add_json(parser, "audit.json instead of the summary")
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    missing = [name for name in AUDIT_NEEDS if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"`unfreeze data audit` needs {', '.join(missing)}, which is not installed; install it "
            "with: pip install 'unfreeze[train,cpu]'"
        )
    from registry.errors import BadRequest
    from training.data.audit import audit_source
    from training.reading_settings import read_settings
    from training.report.audit_page import figures, summary, write_audit

    out = options.out
    if not next(path for path in (out, *out.absolute().parents) if path.exists()).is_dir():
        raise UsageError(f"--out {out}: is a file, or lies below one; name a folder")
    # what is unpacked of Parquet files is as large as they are, and no part of the report
    with TemporaryDirectory(prefix="unfreeze-audit-") as unpacked:
        try:
            settings = read_settings(settings_of(options.settings))
            with _bar("  images") as bar:
                task = bar.add_task("", total=None)
                audit = audit_source(
                    options.source,
                    settings,
                    cache=Path(unpacked),
                    begin=lambda n: bar.update(task, total=n),
                    advance=lambda n: bar.update(task, advance=n),
                )
        except BadRequest as error:
            raise UsageError(str(error)) from error
        write_audit(audit, out)
    if options.json:
        show_json(figures(audit))
    else:
        print(harmless("\n".join([*summary(audit), f"page: {out / 'audit.html'}"])))
    return FAILED if options.strict and any(p.severe for p in audit.problems) else OK


def _unpack_local(archive: Path, folder: Path, limits: Limits) -> int:
    """As `unpack`; its errors name the archive."""
    try:
        return unpack(archive, folder, limits)
    except ArchiveError as error:
        raise ArchiveError(f"{archive}: {error}") from error


def _unpack_download(url: str, archive: Path, digest: str, folder: Path, limits: Limits) -> int:
    """As `unpack`, then deletes the archive; keeps it if unpacking may succeed another time. Its
    errors name the URL."""
    try:
        n_files = unpack(archive, folder, limits)
    except NotEnoughSpace as error:
        kept = f"{archive} is kept; run the same command with --sha256 {digest} to use it"
        raise NotEnoughSpace(f"{url}: {error}; {kept}") from error
    except ArchiveError as error:
        archive.unlink()
        raise ArchiveError(f"{url}: {error}") from error
    archive.unlink()
    return n_files


def _check_local(url: str, archive: Path, digest: str | None) -> str:
    if not archive.is_file():
        raise FetchError(f"{url}: no such file")
    found = digest_of(archive)
    check_digest(url, found, digest)
    return found


def _bar(what: str, *columns: ProgressColumn) -> Progress:
    """A progress bar, as a context manager; shown only on a terminal."""
    console = Console(stderr=True)
    shown = columns or (MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn(what),
        BarColumn(),
        *shown,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
