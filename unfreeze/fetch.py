"""Downloads a file, resuming after interruptions, and checks its SHA-256."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from unfreeze.errors import UnfreezeClientError

CHUNK = 1 << 20
ATTEMPTS = 5  # in a row without any new bytes
SETTLED = timedelta(minutes=1)  # a more recent Last-Modified may not tell two versions apart
Advance = Callable[[int, int | None], None]  # bytes so far, and in all if that is known


class FetchError(UnfreezeClientError):
    """The file could not be downloaded, or is not the expected one."""


class _Interrupted(Exception):
    """The connection ended early; another attempt may resume from there."""


@dataclass
class _Remote:
    """The remote file, as described by the last response that started at its first byte."""

    is_checked: bool  # against a digest, once it is complete
    version: str = ""  # the server's strong validator: ETag or Last-Modified
    total: int | None = None  # bytes

    @property
    def can_go_on(self) -> bool:
        """Whether an attempt may resume the one before: a mix of two files would be noticed."""
        return self.is_checked or (bool(self.version) and self.total is not None)

    def begins(self, headers: Message, total: int | None) -> None:
        self.version, self.total = _version(headers), total

    def goes_on(self, headers: Message, total: int | None) -> bool:
        """Whether a partial response is of the same file; it need not repeat Last-Modified."""
        same = total == self.total and headers.get("ETag") in (None, self.version)
        return self.is_checked or same


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    max_bytes: int,
    advance: Advance = lambda done, total: None,
    timeout_s: float = 30,
    pause_s: float = 1,
) -> str:
    """Downloads the file at `url` to `target`; returns its SHA-256.

    With a digest, an interrupted download is resumed, even by a later call, and a `target` that has
    that digest already is not downloaded again. Without one a changed file would go unnoticed, so a
    download is resumed only within this call, and only if the server confirms that the file is the
    same.

    Args:
        url: http:// or https://.
        timeout_s: an attempt counts as interrupted after this long without a single byte.
        pause_s: before the second attempt in a row; doubles with each further one.

    Raises:
        FetchError: says whether trying again helps.
    """
    partial = target.with_name(f"{target.name}.partial")
    if sha256 and target.exists() and digest_of(target) == sha256.lower():
        return sha256.lower()
    target.unlink(missing_ok=True)
    if not sha256:
        partial.unlink(missing_ok=True)
    resumed = partial.exists()
    remote = _Remote(is_checked=bool(sha256))
    _complete(url, partial, remote, max_bytes, advance, timeout_s, pause_s)
    digest = digest_of(partial)
    if sha256 and digest != sha256.lower() and resumed:  # its first part may be of another file
        partial.unlink()
        _complete(url, partial, remote, max_bytes, advance, timeout_s, pause_s)
        digest = digest_of(partial)
    if sha256 and digest != sha256.lower():
        partial.unlink()
    check_digest(url, digest, sha256)
    partial.replace(target)
    return digest


def check_digest(url: str, found: str, expected: str | None) -> None:
    """Raises FetchError unless `found` is `expected`, or nothing was expected."""
    if expected and found != expected.lower():
        raise FetchError(
            f"{url}: its SHA-256 is {found}, not {expected.lower()}; either the file has changed, "
            "or the digest belongs to another file"
        )


def _complete(
    url: str,
    partial: Path,
    remote: _Remote,
    max_bytes: int,
    advance: Advance,
    timeout_s: float,
    pause_s: float,
) -> None:
    failures, problem, furthest = 0, "", _size(partial)
    while failures < ATTEMPTS:
        offset = _size(partial) if remote.can_go_on else 0
        try:
            return _attempt(url, partial, offset, remote, max_bytes, advance, timeout_s)
        except (_Interrupted, http.client.HTTPException, OSError) as error:
            problem = str(error) or type(error).__name__
            if not _size(partial) and type(error) is urllib.error.URLError:  # no such server
                raise FetchError(f"{url}: {error.reason}") from error
        except ValueError as error:  # a length that is no number, a redirect to what is no address
            raise FetchError(f"{url}: the server's answer is malformed: {error}") from error
        failures = 1 if _size(partial) > furthest else failures + 1
        furthest = max(furthest, _size(partial))
        if failures < ATTEMPTS:
            time.sleep(pause_s * 2 ** (failures - 1))
    size = _size(partial)
    kept = f"{size} bytes are kept in {partial}; the same command with --sha256 resumes from there"
    raise FetchError(f"{url}: {problem}{f'; {kept}' if size else ''}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(
    url: str,
    partial: Path,
    offset: int,
    remote: _Remote,
    max_bytes: int,
    advance: Advance,
    timeout_s: float,
) -> None:
    """Downloads the rest of the file; on _Interrupted, what has arrived stays in `partial`."""
    with _open(url, offset, remote.version, timeout_s) as response:
        start, total = _extent(response, offset)
        if start == 0:
            remote.begins(response.headers, total)
        elif not remote.goes_on(response.headers, total):
            partial.unlink()
            raise _Interrupted("the file was replaced during the download")
        if start is None:
            return  # it was complete already
        _check_size(url, partial, total or 0, max_bytes)
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := response.read1(CHUNK):
                _check_size(url, partial, file.tell() + len(chunk), max_bytes)
                file.write(chunk)
                advance(file.tell(), total)
            if total is not None and file.tell() < total:
                raise _Interrupted(f"the connection ended at {file.tell()} of {total} bytes")


def _check_size(url: str, partial: Path, n_bytes: int, max_bytes: int) -> None:
    """Raises FetchError if that is too many; then nothing is kept, as no attempt can succeed."""
    if n_bytes > max_bytes:
        partial.unlink(missing_ok=True)
        raise FetchError(f"{url}: larger than the limit of {max_bytes} bytes; see --max-gigabytes")


def _open(url: str, offset: int, version: str, timeout_s: float) -> http.client.HTTPResponse:
    """The file from `offset` on, or all of it if it is no longer that `version`."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    if offset and version:
        request.add_header("If-Range", version)
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return error  # type: ignore[return-value]  # it reads like a response
        error.close()
        if error.code < 500:
            raise FetchError(f"{url}: {error.code} {error.reason}") from error
        raise
    return response


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int | None, int | None]:
    """Where in the file the body begins (None: there is no more), and the file's size."""
    length = response.headers.get("Content-Length")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        where, _, total = response.headers.get("Content-Range", "").partition("/")
        if where != f"bytes {offset}-{where.rpartition('-')[2]}":
            raise FetchError(f"{response.url}: asked for bytes {offset}-, received {where!r}")
        return offset, int(total) if total.isdigit() else None
    if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return None, offset  # nothing beyond what we have; the digest tells whether that is all
    return 0, int(length) if length else None


def _version(headers: Message) -> str:
    """The response's strong validator (RFC 9110, 8.8.1): an ETag, or a Last-Modified that is old
    enough. Empty if it has none."""
    tag, modified, now = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Date"))
    if tag:
        return "" if tag.startswith("W/") else tag
    try:
        settled = parsedate_to_datetime(now) - parsedate_to_datetime(modified) > SETTLED
    except (ValueError, TypeError):  # one of them is missing, or not a date
        return ""
    return modified if settled else ""


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Which addresses may be opened


def check_url(url: str) -> None:
    """Raises FetchError unless it is an http(s) URL or that of a local file."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return
    raise FetchError(
        f"{url}: not a supported URL; it must begin with https://, http:// or file:///"
    )


def local_file(url: str) -> Path | None:
    """The path that a file:// URL names; None for other URLs."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to http(s), and never from https to http."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        file: IO[bytes],
        code: int,
        message: str,
        headers: Message,
        url: str,
    ) -> urllib.request.Request | None:
        allowed = ("https",) if request.type == "https" else ("http", "https")
        if urlsplit(url).scheme not in allowed:
            raise FetchError(
                f"{request.full_url}: redirects to {url}, which is not followed: a redirect may "
                "only lead to http(s), and not from https to http"
            )
        return super().redirect_request(request, file, code, message, headers, url)  # type: ignore[arg-type]


def _opener() -> urllib.request.OpenerDirector:
    """Instead of urllib's own, which also opens ftp:, data: and local files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
