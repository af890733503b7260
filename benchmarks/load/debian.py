"""Programs and libraries out of Debian's packages, without installing them."""

import subprocess
from pathlib import Path


def fetched(package: str, folder: Path) -> Path:
    """Root of the package's files, below `folder`; downloaded if it is not there.

    Raises:
        subprocess.CalledProcessError: there is no such package here.
        FileNotFoundError: this is no Debian: there is no apt-get.
    """
    root = folder / package
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (file,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", file, root], check=True)
        file.unlink()
    return root
