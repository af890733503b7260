"""`unfreeze data`: fetches archives of images, and looks a data set over before training."""

import argparse
import re
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from unfreeze.commands.shared import OK, Commands, UsageError, add_command, add_json, say, show_json
from unfreeze.fetch import FetchError, check_digest, check_url, digest_of, fetch, local_file
from unfreeze.unpack import Limits, unpack

GIGABYTE = 1 << 30


def add_to(commands: Commands) -> None:
    group = commands.add_parser("data", help="fetch archives of images, look data sets over")
    kinds = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_fetch(kinds)


def _add_fetch(commands: Commands) -> None:
    parser = add_command(
        commands,
        "fetch",
        "download an archive of images and unpack it safely",
        "  unfreeze data fetch https://example.org/birds.tar.gz --sha256 9f86d08… --into birds\n"
        "  unfreeze data fetch file:///mnt/scans.zip --into scans",
    )
    parser.add_argument("url", metavar="URL", help="https://, http:// or file:///; zip or tar")
    parser.add_argument("--sha256", metavar="HEX", help="what the file has to be; lets it resume")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="new or empty")
    parser.add_argument("--max-gigabytes", type=float, default=100, help="default: %(default)s")
    add_json(parser, "what came, as JSON")
    parser.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    folder, digest = options.into, options.sha256
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise UsageError("--sha256 has to be 64 hexadecimal digits")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; name another folder")
    check_url(options.url)
    limits = Limits(n_bytes=int(options.max_gigabytes * GIGABYTE))
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    if archive := local_file(options.url):
        found = _check_local(options.url, archive, digest)
        n_files = unpack(archive, target, limits)
    else:
        archive = target.with_name(f".{target.name}.download")
        try:
            with _Bar() as bar:
                found = fetch(
                    options.url,
                    archive,
                    sha256=digest,
                    max_bytes=limits.n_bytes,
                    advance=bar.show,
                )
            n_files = unpack(archive, target, limits)
        finally:
            archive.unlink(missing_ok=True)
    if options.json:
        show_json({"folder": folder, "files": n_files, "sha256": found})
    else:
        print(f"{n_files} files in {folder}")
    if not digest:
        say(f"to be sure of the same files next time: --sha256 {found}")
    return OK


def _check_local(url: str, archive: Path, digest: str | None) -> str:
    if not archive.is_file():
        raise FetchError(f"{url}: no such file")
    found = digest_of(archive)
    check_digest(url, found, digest)
    return found


class _Bar:
    """How much has come, on a terminal; to be entered and left."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("  downloading"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bars.add_task("", total=None)

    def show(self, done: int, total: int | None) -> None:
        self._bars.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
