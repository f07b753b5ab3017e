"""Data that is not embedded: Fashion-MNIST, from Debian's package, into the cache folder.

python specs/hosts/fetch.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from archspec.diagnostics import ArchspecError
from archspec.render import render
from archspec.runtime.data.bundled import FASHION_FOLDER, fashion_folder
from archspec.runtime.data.encoded import cache_folder

PACKAGE = "dataset-fashion-mnist"


def fetch_fashion() -> Path:
    """Return the folder of Fashion-MNIST; download and unpack the package where it is neither installed nor cached.
    Needs apt; raises AS701, which tells what else can be done, without it."""
    try:
        return fashion_folder()
    except ArchspecError as missing:
        place = cache_folder() / "fashion-mnist"
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.parent) as made:
            try:
                _unpack(Path(made))
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"fetching {PACKAGE} failed: {error}", file=sys.stderr)
                raise missing from error
            shutil.move(Path(made) / "x" / FASHION_FOLDER.relative_to("/"), place)
        return place


def _unpack(folder: Path) -> None:
    """Download the package into `folder` and unpack it into its `x`."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder / "x"], check=True)


if __name__ == "__main__":
    try:
        print(fetch_fashion())
    except ArchspecError as error:
        sys.exit(render(error.diagnostics))
