"""Whatever an archive says, nothing is written outside the folder it is unpacked to."""

import io
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from unfreeze.unpack import ArchiveError, Limits, unpack

PIECES = st.sampled_from(["a", "A", "b.jpg", "..", ".", "", "/", "~", "é", "e\u0301", "a\\b", "C:"])
NAMES = st.lists(PIECES, min_size=1, max_size=4).map("/".join) | st.text(max_size=8)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S"]
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, NAMES, st.binary(max_size=20)), max_size=5)


def check(archive: bytes) -> None:
    """It is unpacked as plain files below the folder, or refused; the neighbour stays as it was."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "archive").write_bytes(archive)
        (root / "neighbour").write_text("mine")
        try:
            n_files = unpack(root / "archive", root / "out", Limits(n_bytes=1000))
        except ArchiveError:
            assert {path.name for path in root.iterdir()} == {"archive", "neighbour"}
        else:
            found = [path for path in (root / "out").rglob("*") if not path.is_dir()]
            assert len(found) == n_files
            assert all(path.is_file() and not path.is_symlink() for path in found)
            assert {path.name for path in root.iterdir()} == {"archive", "neighbour", "out"}
        assert (root / "neighbour").read_text() == "mine"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(members=MEMBERS)
def test_no_tar_writes_outside_its_folder(members: list[tuple[str, bytes, str, bytes]]):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogatepass") as archive:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            archive.addfile(info, io.BytesIO(content))
    check(out.getvalue())


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(members=MEMBERS)
def test_no_zip_writes_outside_its_folder(members: list[tuple[str, bytes, str, bytes]]):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, kind, _, content in members:
            info = zipfile.ZipInfo()
            info.filename = name.encode(errors="replace").decode()
            info.external_attr = (0o120777 if kind == tarfile.SYMTYPE else 0o100644) << 16
            with warnings.catch_warnings(action="ignore"):  # that a name comes twice
                archive.writestr(info, content)
    check(out.getvalue())


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    noise=st.binary(max_size=60), start=st.sampled_from([b"PK\3\4", b"\x1f\x8b\x08", b"BZh9", b""])
)
def test_no_noise_writes_outside_its_folder(noise: bytes, start: bytes):
    check(start + noise)
