"""Unpacks programs and libraries from Debian packages, without installing them."""

import subprocess
from pathlib import Path


def fetched(package: str, folder: Path) -> Path:
    """Root of the package's files, below `folder`; downloaded if it is not there.

    Raises:
        subprocess.CalledProcessError: apt-get does not know the package.
        FileNotFoundError: there is no apt-get: this is not Debian.
    """
    root = folder / package
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (file,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", file, root], check=True)
        file.unlink()
    return root
