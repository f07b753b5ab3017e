"""Data that is not embedded: Fashion-MNIST, from Debian's package, into the cache folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from archspec.diagnostics import ArchspecError
from archspec.runtime.data.bundled import FASHION_FOLDER, fashion_folder
from archspec.runtime.data.encoded import cache_folder

PACKAGE = "dataset-fashion-mnist"


def fetch_fashion() -> Path:
    """Return the folder of Fashion-MNIST; download and unpack the package where it is neither installed nor cached.
    Needs apt; raises CalledProcessError or FileNotFoundError without it."""
    try:
        return fashion_folder()
    except ArchspecError:
        pass
    place = cache_folder() / "fashion-mnist"
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent) as made:
        folder = Path(made)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder / "x"], check=True)
        shutil.move(folder / "x" / FASHION_FOLDER.relative_to("/"), place)
    return place
