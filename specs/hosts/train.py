"""Train the embedded models: small diffusion transformers of images, and the classifiers that judge them.

    python specs/hosts/train.py [NAMES...] [--out specs/hosts]

Hosts of classes (`class_hosts`), a host of captions (`shapes_host`) and classifiers (`judges`) are trained after the
recipe of their name. Same seed, same weights (on one kind of CPU and torch). A killed run goes on from its last state,
kept as `.state.safetensors`. All are written as fp16 safetensors, hosts as pipeline folders that plain diffusers loads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from class_hosts import HOSTS, train_host
from judges import JUDGES, train_classifier
from shapes_host import train_shapes

HERE = Path(__file__).parent

RECIPES: Mapping[str, Callable[[Path], None]] = {
    **{name: partial(train_classifier, judge) for name, judge in JUDGES.items()},
    **{name: partial(train_host, recipe) for name, recipe in HOSTS.items()},
    "shapes": train_shapes,
}
"""Each writes a model into the folder it is given."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(RECIPES)}; default: digits")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that receives a folder for each")
    arguments = parser.parse_args()
    names = arguments.names or ["digits-classifier", "digits"]
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"no recipe is called {', '.join(unknown)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names:
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        RECIPES[name](folder)


if __name__ == "__main__":
    main()
