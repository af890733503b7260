"""Downloads a file: resumed where it broke off, and checked by its SHA-256."""

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
ATTEMPTS = 5  # in a row that bring nothing new
SETTLED = timedelta(minutes=1)  # a file changed since may change within the same second again
Advance = Callable[[int, int | None], None]  # bytes so far, and in all if that is known


class FetchError(UnfreezeClientError):
    """What was asked for could not be had, or is not what was promised."""


class _Interrupted(Exception):
    """The connection ended early; another attempt may go on from there."""


@dataclass
class _Remote:
    """The file at the other end, as the last answer told that began at its beginning."""

    is_checked: bool  # by a digest, when all of it is here
    version: str = ""  # what its server calls this very content
    total: int | None = None  # bytes

    @property
    def can_go_on(self) -> bool:
        """An attempt may begin where the one before it ended: parts of two files would be seen."""
        return self.is_checked or (bool(self.version) and self.total is not None)

    def begins(self, headers: Message, total: int | None) -> None:
        self.version, self.total = _version(headers), total

    def goes_on(self, headers: Message, total: int | None) -> bool:
        """Whether an answer is a part of the same file; such a one need not repeat its date."""
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
    """`target` is the file at `url`; gives its SHA-256. An interrupted one goes on where it was,
    also in a later call, if the digest is known; one that is there already with that digest is not
    fetched again. Without a digest nobody would see a changed file, so it goes on in this call
    alone, and if its server tells that it is the same.

    Args:
        url: file://, http:// or https://.
        timeout_s: without a single byte before an attempt counts as interrupted.
        pause_s: before the second attempt in a row; doubles with each.

    Raises:
        FetchError: says whether asking again helps.
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
    if sha256 and digest != sha256.lower() and resumed:  # perhaps the beginning was of another file
        partial.unlink()
        _complete(url, partial, remote, max_bytes, advance, timeout_s, pause_s)
        digest = digest_of(partial)
    if sha256 and digest != sha256.lower():
        partial.unlink()
    check_digest(url, digest, sha256)
    partial.replace(target)
    return digest


def check_digest(url: str, found: str, expected: str | None) -> None:
    """Raises FetchError unless `found` is what was `expected`, or nothing was."""
    if expected and found != expected.lower():
        raise FetchError(
            f"{url}: its SHA-256 is {found} and not {expected.lower()}; the file has changed, or "
            "the digest is another file's"
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
        failures = 1 if _size(partial) > furthest else failures + 1
        furthest = max(furthest, _size(partial))
        if failures < ATTEMPTS:
            time.sleep(pause_s * 2 ** (failures - 1))
    size = _size(partial)
    kept = f"{size} bytes are in {partial}, and the same command with --sha256 goes on from there"
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
    """Appends what is missing of the file, or raises _Interrupted with what came kept."""
    with _open(url, offset, remote.version, timeout_s) as response:
        start, total = _extent(response, offset)
        if start == 0:
            remote.begins(response.headers, total)
        elif not remote.goes_on(response.headers, total):
            partial.unlink()
            raise _Interrupted("the file was replaced while it was fetched")
        if start is None:
            return  # all of it was here
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                advance(file.tell(), total)
                if file.tell() > max_bytes:
                    raise FetchError(f"{url}: more than the allowed {max_bytes} bytes")
            if total is not None and file.tell() < total:
                raise _Interrupted(f"the connection ended at {file.tell()} of {total} bytes")


def _open(url: str, offset: int, version: str, timeout_s: float) -> http.client.HTTPResponse:
    """The file from `offset` on, or all of it where it is no longer that `version`."""
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
    """Where the body begins in the file (None: nothing of it is left), and the file's size."""
    length = response.headers.get("Content-Length")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        where, _, total = response.headers.get("Content-Range", "").partition("/")
        if where != f"bytes {offset}-{where.rpartition('-')[2]}":
            raise FetchError(f"{response.url}: asked for bytes {offset}-, was given {where!r}")
        return offset, int(total) if total.isdigit() else None
    if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return None, offset  # no byte after what is here; the digest tells whether that is all
    return 0, int(length) if length else None


def _version(headers: Message) -> str:
    """What nothing but the same bytes is called by their server: RFC 9110, 8.8.1. Empty if there
    is no such name."""
    tag, modified, now = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Date"))
    if tag:
        return "" if tag.startswith("W/") else tag
    try:
        settled = parsedate_to_datetime(now) - parsedate_to_datetime(modified) > SETTLED
    except (ValueError, TypeError):  # one of them is missing, or no date
        return ""
    return modified if settled else ""


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What may be opened


def check_url(url: str) -> None:
    """Raises FetchError unless it is an http(s) address or a local file's."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return
    raise FetchError(f"{url}: begin it with https://, http:// or file:///")


def local_file(url: str) -> Path | None:
    """The file that a file:// address names."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http(s) alone, and never from https back to http."""

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
            raise FetchError(f"{request.full_url}: redirects to {url}, which is not followed")
        return super().redirect_request(request, file, code, message, headers, url)  # type: ignore[arg-type]


def _opener() -> urllib.request.OpenerDirector:
    """Not urllib's own, which also opens ftp:, data: and local files."""
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
