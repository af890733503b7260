"""`unfreeze data fetch`: broken downloads go on, and no archive writes where it should not."""

import bz2
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unfreeze.cli import main
from unfreeze.fetch import FetchError, check_url, fetch
from unfreeze.unpack import ArchiveError, Limits, unpack

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BIG = 1 << 30
OTHER = CONTENT[::-1]
Name = Callable[[bytes], dict[str, str]]


def by_tag(content: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}


def by_date(content: bytes) -> dict[str, str]:
    return {"Last-Modified": f"0{1 + (content == CONTENT)} Jan 2020 00:00:00 GMT"}


def by_weak_tag(content: bytes) -> dict[str, str]:
    return {"ETag": 'W/"they mean the same"'}


def by_nothing(content: bytes) -> dict[str, str]:
    return {}


class Files(http.server.ThreadingHTTPServer):
    """Serves `content`; each request takes the next of `moods`: cut, stall, refuse, … or serve.
    After one that is cut, `next_content` is in its place, if there is such."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.moods, self.offsets = content, list[str](), list[int]()
        self.next_content: bytes | None = None
        self.name: Name = by_nothing  # the headers of a content
        self.heeds_if_range = True
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        mood = self.server.moods.pop(0) if self.server.moods else "serve"
        offset = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.offsets.append(offset)
        wanted, here = self.headers.get("If-Range"), self.server.name(self.server.content)
        if wanted and self.server.heeds_if_range and wanted not in here.values():
            offset = 0
        if mood.startswith("to "):
            self.answer(302, {"Location": mood[3:]})
        elif mood.startswith("says "):
            self.send_response(404, mood[5:])
            self.end_headers()
        elif mood.isdigit():
            self.answer(int(mood), {"Content-Length": "0"})
        elif offset >= len(self.server.content):
            self.answer(416, {"Content-Length": "0"})
        else:
            self.send(mood, 0 if mood == "no ranges" else offset)

    def send(self, mood: str, offset: int) -> None:
        body, total = self.server.content[offset:], len(self.server.content)
        headers = {"Content-Length": str(len(body))} | self.server.name(self.server.content)
        if mood == "no length":
            del headers["Content-Length"]
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{total - 1}/{total}"
        self.answer(206 if offset else 200, headers)
        self.wfile.write(body[: 100_000 if mood in ("cut", "stall") else None])
        if mood == "cut" and self.server.next_content is not None:
            self.server.content = self.server.next_content
        if mood == "stall":
            self.wfile.flush()
            self.server.release.wait(20)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Files]:
    with Files(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Files]:
    with serving(CONTENT) as files:
        yield files


def get(server: Files, tmp_path: Path, sha256: str | None = DIGEST, **more: Any) -> bytes:
    fetch(server.url, tmp_path / "f", sha256=sha256, max_bytes=BIG, pause_s=0.01, **more)
    return (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("mood", ["cut", "stall", "503"])
def test_an_interrupted_download_goes_on_where_it_was(server: Files, tmp_path: Path, mood: str):
    server.moods = ["cut", mood]
    assert get(server, tmp_path, timeout_s=0.5) == CONTENT
    assert server.offsets[:2] == [0, 100_000]
    assert server.offsets[2] == (100_000 if mood == "503" else 200_000)


@pytest.mark.parametrize("sha256", [DIGEST, None], ids=["with a digest", "without"])
def test_a_later_call_goes_on_too(server: Files, tmp_path: Path, sha256: str | None):
    server.moods = ["cut", *["503"] * 4]
    with pytest.raises(FetchError, match=f"100000 bytes are kept in {tmp_path}/f.partial; the"):
        get(server, tmp_path, sha256)
    server.offsets.clear()
    assert get(server, tmp_path) == CONTENT
    assert server.offsets == [100_000]


def test_what_is_there_with_its_digest_is_not_fetched_again(server: Files, tmp_path: Path):
    for _ in range(2):
        assert get(server, tmp_path) == CONTENT
    assert server.offsets == [0]
    (tmp_path / "f").write_bytes(b"something else")
    assert get(server, tmp_path) == CONTENT
    assert server.offsets == [0, 0]


def test_progress_is_reported_in_bytes(server: Files, tmp_path: Path):
    told: list[tuple[int, int | None]] = []
    get(server, tmp_path, advance=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_without_ranges_sends_it_all_again(server: Files, tmp_path: Path):
    server.moods = ["cut", "no ranges"]
    assert get(server, tmp_path) == CONTENT


def test_what_was_left_of_another_file_is_replaced(server: Files, tmp_path: Path):
    (tmp_path / "f.partial").write_bytes(b"something else")
    assert get(server, tmp_path) == CONTENT
    (tmp_path / "f.partial").write_bytes(CONTENT + b"and more")
    assert get(server, tmp_path) == CONTENT


def test_without_a_digest_nothing_old_is_trusted(server: Files, tmp_path: Path):
    (tmp_path / "f.partial").write_bytes(b"something else")
    assert get(server, tmp_path, sha256=None) == CONTENT
    assert server.offsets == [0]


@pytest.mark.parametrize("name", [by_tag, by_date])
def test_without_a_digest_the_same_file_goes_on_where_it_was(
    server: Files, tmp_path: Path, name: Name
):
    server.moods, server.name = ["cut", "cut"], name
    assert get(server, tmp_path, sha256=None) == CONTENT
    assert server.offsets == [0, 100_000, 200_000]


@pytest.mark.parametrize("other", [OTHER, OTHER[:50_000], OTHER + b"more"])
@pytest.mark.parametrize("name", [by_tag, by_date, by_weak_tag, by_nothing])
def test_without_a_digest_two_files_do_not_become_one(
    server: Files, tmp_path: Path, name: Name, other: bytes
):
    server.moods, server.name, server.next_content = ["cut"], name, other
    assert get(server, tmp_path, sha256=None) == other


@pytest.mark.parametrize("other", [OTHER, OTHER[:50_000], OTHER + b"more"])
def test_nor_where_the_server_sends_a_part_of_another_file_than_it_was_asked_for(
    server: Files, tmp_path: Path, other: bytes
):
    server.moods, server.name, server.next_content = ["cut"], by_tag, other
    server.heeds_if_range = False
    assert get(server, tmp_path, sha256=None) == other


def test_another_digest_is_refused_and_nothing_is_kept(server: Files, tmp_path: Path):
    with pytest.raises(FetchError, match=f"its SHA-256 is {DIGEST}, not 0000"):
        get(server, tmp_path, sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_what_does_not_exist_is_not_asked_for_again(server: Files, tmp_path: Path):
    server.moods = ["404"]
    with pytest.raises(FetchError, match="404 Not Found"):
        get(server, tmp_path)
    assert server.offsets == [0]


def test_a_file_above_the_limit_is_not_downloaded_to_its_end(server: Files, tmp_path: Path):
    with pytest.raises(FetchError, match="larger than the limit of 1000 bytes"):
        fetch(server.url, tmp_path / "f", max_bytes=1000)


@pytest.mark.parametrize("sha256", [DIGEST, None], ids=["with a digest", "without"])
def test_a_file_that_is_announced_above_the_limit_is_not_begun(
    server: Files, tmp_path: Path, sha256: str | None
):
    server.moods = ["stall"]  # whoever waits for its content waits for 20 seconds
    told: list[int] = []
    with pytest.raises(FetchError, match="larger than the limit of 1000 bytes"):
        fetch(
            server.url,
            tmp_path / "f",
            sha256=sha256,
            max_bytes=1000,
            advance=lambda done, total: told.append(done),
        )
    assert not told
    assert not list(tmp_path.iterdir())


def test_a_file_of_unannounced_size_leaves_nothing_if_it_is_above_the_limit(
    server: Files, tmp_path: Path
):
    server.moods = ["no length"]
    with pytest.raises(FetchError, match="larger than the limit of 200000 bytes"):
        fetch(server.url, tmp_path / "f", sha256=DIGEST, max_bytes=200_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "data:,x"])
def test_redirects_to_other_schemes_are_refused(server: Files, tmp_path: Path, to: str):
    server.moods = [f"to {to}"]
    with pytest.raises(FetchError, match=r"redirects to|Redirection to"):
        get(server, tmp_path)


@pytest.mark.parametrize("length", ["ten", "9" * 5_000])
def test_a_length_that_is_no_number_is_an_error_of_the_server(
    server: Files, tmp_path: Path, length: str
):
    server.name = lambda _: {"Content-Length": length}
    with pytest.raises(FetchError, match="the server's answer is malformed"):
        get(server, tmp_path)


def test_a_redirect_to_what_is_no_address_is_an_error_of_the_server(server: Files, tmp_path: Path):
    server.moods = ["to http://[::1/"]
    with pytest.raises(FetchError, match="the server's answer is malformed"):
        get(server, tmp_path)


def test_what_a_server_says_does_not_command_the_terminal(
    server: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    server.moods = ["says \x1b[2J"]
    assert main(["data", "fetch", server.url, "--into", str(tmp_path / "photos")]) == 1
    told = capsys.readouterr().err
    assert r"404 \x1b[2J" in told
    assert "\x1b" not in told


def test_redirects_within_http_are_followed(server: Files, tmp_path: Path):
    server.moods = [f"to {server.url}"]
    assert get(server, tmp_path) == CONTENT


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "photos.zip", "file://host/x", "http:///x", "data:,x"]
)
def test_other_addresses_are_refused(url: str):
    with pytest.raises(FetchError, match="begin with https://"):
        check_url(url)


# Archives


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(*members: tarfile.TarInfo, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def member(
    name: str, size: int = 3, kind: bytes = tarfile.REGTYPE, to: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, to
    return info


def cut_map() -> bytes:
    """A sparse file's header, as GNU tar writes it, without the block in which its map goes on."""
    header = bytearray(member("a", 0, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def linked_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return out.getvalue()


def unpacked(archive: bytes, tmp_path: Path, limits: Limits = Limits()) -> dict[str, bytes]:  # noqa: B008
    (tmp_path / "archive").write_bytes(archive)
    folder = tmp_path / "inner" / "out"
    unpack(tmp_path / "archive", folder, limits)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


THIS = member("./", 0, tarfile.DIRTYPE)  # with which `tar c .` begins
GOOD = {
    "zip": zipped(**{"a/1.jpg": b"\0" * 3, "b/2.jpg": b"\0" * 3}),
    **{
        mode: tarred(THIS, member("a/1.jpg"), member("./b/2.jpg"), mode=mode)
        for mode in ("w", "w:gz", "w:bz2", "w:xz")
    },
}


@pytest.mark.parametrize("kind", GOOD)
def test_zip_and_tar_are_unpacked_by_their_content(tmp_path: Path, kind: str):
    assert unpacked(GOOD[kind], tmp_path) == {"a/1.jpg": b"\0" * 3, "b/2.jpg": b"\0" * 3}


SIX = tarred(*(member(f"{number}.jpg") for number in range(6)))  # two blocks each
DAMAGED = {
    "between files": SIX[: 6 * tarfile.BLOCKSIZE],
    "in a header": SIX[: 6 * tarfile.BLOCKSIZE + 100],
    "in a file": SIX[: 5 * tarfile.BLOCKSIZE + 1],
    "in the end": SIX[: 12 * tarfile.BLOCKSIZE + 100],
    "another header": SIX[:2048] + b"x" + SIX[2049:],
    "one block of zeros": SIX[:2048] + bytes(tarfile.BLOCKSIZE) + b"x" + SIX[2561:],
    "one block, not of zeros alone": SIX[: 12 * tarfile.BLOCKSIZE] + bytes(600) + b"x",
}

EVIL = {
    "up": (tarred(member("../x")), "unsafe file name"),
    "deep up": (zipped(**{"a/../../x": b""}), "unsafe file name"),
    "absolute": (tarred(member("/tmp/x")), "unsafe file name"),
    "drive": (zipped(**{"C:/x": b""}), "unsafe file name"),
    "backslash": (zipped(**{"..\\x": b""}), "unsafe file name"),
    "nul": (zipped(aXb=b"").replace(b"aXb", b"a\0b"), "unsafe file name"),
    "folder up": (tarred(member("../x", 0, tarfile.DIRTYPE)), "unsafe file name"),
    "symlink": (tarred(member("a", 0, tarfile.SYMTYPE, "/etc")), "is a link or a device"),
    "hard link": (tarred(member("a", 0, tarfile.LNKTYPE, "/etc/passwd")), "is a link or a device"),
    "symlink in zip": (linked_zip(), "is a link or a device"),
    "device": (tarred(member("a", 0, tarfile.CHRTYPE)), "is a link or a device"),
    "fifo": (tarred(member("a", 0, tarfile.FIFOTYPE)), "is a link or a device"),
    "twice": (tarred(member("a"), member("./a")), "is in the archive twice"),
    "case": (zipped(**{"a.jpg": b"", "A.JPG": b""}), "is in the archive twice"),
    "accents": (zipped(**{"caf\u00e9": b"", "cafe\u0301": b""}), "is in the archive twice"),
    "folder case": (zipped(**{"Cat/1": b"", "cat/2": b""}), "'cat' clashes"),
    "file as folder": (tarred(member("a"), member("a/b")), "'a' clashes"),
    "folder as file": (tarred(member("a/b"), member("a")), "a file here and a folder elsewhere"),
    "nothing": (tarred(), "the archive contains no files"),
    "no archive": (b"hello, world" * 100, "neither a zip nor a tar"),
    "cut zip": (GOOD["zip"][:-30], "damaged archive"),
    "cut gzip": (GOOD["w:gz"][:-20], "damaged archive"),
    "gzip of other bytes": (
        GOOD["w:gz"][:-8] + bytes(4) + GOOD["w:gz"][-4:],
        "damaged archive: CRC check failed",
    ),
    "gzip of other bytes, more behind": (
        GOOD["w:gz"][:-8] + bytes(4) + GOOD["w:gz"][-4:] + b"x" * 100,
        "damaged archive: CRC check failed",
    ),
    "cut map": (cut_map(), "damaged archive"),
    **{f"tar: {how}": (archive, "damaged archive") for how, archive in DAMAGED.items()},
    **{
        f"tar.gz: {how}": (gzip.compress(archive), "damaged archive")
        for how, archive in DAMAGED.items()
    },
}


@pytest.mark.parametrize("n_zeros", [1, 2, 20], ids=lambda n: f"{n} blocks")
def test_a_tar_may_end_with_as_many_zeros_as_its_program_writes(tmp_path: Path, n_zeros: int):
    archive = SIX[: 12 * tarfile.BLOCKSIZE] + bytes(n_zeros * tarfile.BLOCKSIZE)
    assert len(unpacked(archive, tmp_path)) == 6


BEHIND = {  # the two blocks of zeros that end a tar; GNU tar unpacks all of these, too
    "undefined bytes": SIX + b"\x55" * 512,
    "less than a block": SIX + b"x",
    "another archive": SIX + SIX,
    "undefined bytes in gzip": gzip.compress(SIX + b"\x55" * 512),
    "more gzip": gzip.compress(SIX[:2048]) + gzip.compress(SIX[2048:]),
    "bytes behind gzip": gzip.compress(SIX) + b"x" * 100,
    "bytes behind bzip2": bz2.compress(SIX) + b"x" * 100,
    "bytes behind xz": lzma.compress(SIX) + b"x" * 100,
}


@pytest.mark.parametrize("what", BEHIND)
def test_whatever_stands_behind_the_end_of_a_tar_is_ignored(tmp_path: Path, what: str):
    assert sorted(unpacked(BEHIND[what], tmp_path)) == [f"{number}.jpg" for number in range(6)]


@pytest.mark.parametrize("what", EVIL)
def test_an_archive_that_breaks_a_rule_leaves_nothing(tmp_path: Path, what: str):
    archive, message = EVIL[what]
    with pytest.raises(ArchiveError, match=message):
        unpacked(archive, tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"archive", "inner"}


BOMBS = {
    "zip": (zipped(zeros=bytes(200 << 20)), Limits(), "more than the limit of 67108864 bytes"),
    "tar": (tarred(member("zeros", 200 << 20), mode="w:gz"), Limits(), "more than the limit of"),
    "header": (
        tarred(member("x", 20 << 20, tarfile.XHDTYPE), member("a"), mode="w:gz"),
        Limits(),
        "a header claims 20971520 bytes; the archive is damaged or malicious",
    ),
    "bytes": (zipped(a=b"12345", b=b"67890"), Limits(n_bytes=9), "more than the limit of 9 bytes"),
    "tar bytes": (tarred(member("a"), member("b")), Limits(n_bytes=5), "more than the limit of 5"),
    "zeros behind a tar": (
        gzip.compress(SIX + bytes(1 << 20)),
        Limits(n_bytes=20_000, n_entries=6),
        "more than the limit of",
    ),
    "entries": (zipped(a=b"", b=b""), Limits(n_entries=1), "more than the limit of 1 entries"),
    "tar entries": (tarred(member("a"), member("b")), Limits(n_entries=1), "limit of 1 entries"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_are_refused(tmp_path: Path, what: str):
    archive, limits, message = BOMBS[what]
    with pytest.raises(ArchiveError, match=message):
        unpacked(archive, tmp_path, limits)
    assert not (tmp_path / "inner" / "out").exists()


# The command


def test_the_command_fetches_checks_and_unpacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with serving(GOOD["w:gz"]) as server:
        digest = hashlib.sha256(GOOD["w:gz"]).hexdigest()
        into = tmp_path / "birds"
        assert main(["data", "fetch", server.url, "--sha256", digest, "--into", str(into)]) == 0
    assert "2 files in" in capsys.readouterr().out
    assert (into / "b" / "2.jpg").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_what_was_fetched_is_printed_as_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.zip").write_bytes(GOOD["zip"])
    into = tmp_path / "birds"
    command = ["data", "fetch", (tmp_path / "a.zip").as_uri(), "--into", str(into), "--json"]
    assert main(command) == 0
    digest = hashlib.sha256(GOOD["zip"]).hexdigest()
    expected = {"folder": str(into), "files": 2, "sha256": digest}
    assert json.loads(capsys.readouterr().out) == expected


def test_a_download_that_finds_no_room_is_kept_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    archive = tarred(member("zeros", 1 << 20), mode="w:gz")
    digest = hashlib.sha256(archive).hexdigest()
    with serving(archive) as server:
        command = ["data", "fetch", server.url, "--into", str(tmp_path / "birds")]
        assert main([*command, "--max-gigabytes", "0.0001"]) == 1
        kept = tmp_path / ".birds.download"
        said = f"see --max-gigabytes; {kept} is kept; run the same command with --sha256 {digest}"
        assert said in capsys.readouterr().err
        assert kept.read_bytes() == archive
        assert main([*command, "--sha256", digest]) == 0
    assert server.offsets == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


HOPELESS = {
    "damaged": DAMAGED["between files"],
    "up": EVIL["up"][0],
    "symlink": EVIL["symlink"][0],
    "twice": EVIL["twice"][0],
    "a name too long for the disk": zipped(**{"a" * 300: b""}),
    "bomb": BOMBS["zip"][0],
}


@pytest.mark.parametrize("what", HOPELESS)
def test_a_download_that_can_never_be_unpacked_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
):
    with serving(HOPELESS[what]) as server:
        assert main(["data", "fetch", server.url, "--into", str(tmp_path / "birds")]) == 1
    said = capsys.readouterr().err
    assert said
    assert "is kept" not in said
    assert "--max-gigabytes" not in said
    assert not list(tmp_path.iterdir())


def test_a_local_archive_is_unpacked_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.zip").write_bytes(GOOD["zip"])
    url, into = (tmp_path / "a.zip").as_uri(), str(tmp_path / "birds")
    assert main(["data", "fetch", url, "--into", into]) == 0
    assert hashlib.sha256(GOOD["zip"]).hexdigest() in capsys.readouterr().err
    assert (tmp_path / "a.zip").is_file()
    assert main(["data", "fetch", url, "--into", into]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["photos.zip", "ftp://x/photos.zip"])
def test_the_command_takes_another_address_for_wrong_usage(tmp_path: Path, capsys, url: str):
    assert main(["data", "fetch", url, "--into", str(tmp_path / "birds")]) == 2
    assert f"{url}: not a supported URL" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "inf", "-1", "0", "many"])
def test_a_limit_that_is_no_number_of_gigabytes_is_wrong_usage(tmp_path: Path, capsys, limit: str):
    command = ["data", "fetch", "https://example.org/x.zip", "--into", str(tmp_path / "birds")]
    with pytest.raises(SystemExit, match="2"):
        main([*command, f"--max-gigabytes={limit}"])
    reason = "a finite number" if limit == "inf" else "a number above 0"
    assert f"--max-gigabytes: {limit} is not {reason}" in capsys.readouterr().err


def test_the_command_names_the_url_that_is_no_archive(tmp_path: Path, capsys):
    with serving(b"<!doctype html><title>Sign in</title>" * 100) as server:
        assert main(["data", "fetch", server.url, "--into", str(tmp_path / "birds")]) == 1
    assert f"{server.url}: not an archive: neither a zip nor a tar" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_local_file_that_is_no_archive(tmp_path: Path, capsys):
    file = tmp_path / "photos.zip"
    file.write_bytes(b"hello, world" * 100)
    assert main(["data", "fetch", file.as_uri(), "--into", str(tmp_path / "birds")]) == 1
    assert f"{file}: not an archive: neither a zip nor a tar" in capsys.readouterr().err
