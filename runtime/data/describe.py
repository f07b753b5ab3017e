"""What a `data` stanza stands for: its kind, its place and its content identity, found without torch.

The kind is told from the name where the spec says `auto`. The identity goes into the keys of a plan's tasks, together
with the settings that choose examples (`identity`). It covers the path (relative), the size and the bytes of every
file; of more than 1 GiB, or of more than 4,096 files, the first and last 4 KiB of each, of at most 4,096 evenly chosen
ones: a folder of a million images is identified in seconds. A set on a hub is identified by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from archspec.diagnostics import fail, nearest
from archspec.plan import digest
from archspec.runtime.store.files import known_hash

BUNDLED = ("digits", "fashion", "shapes")
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
SUFFIXES: Mapping[str, str] = {
    ".safetensors": "latents",
    ".npy": "latents",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
}
EDGE, MOST_FILES, WHOLE = 4096, 4096, 1 << 30


@dataclass(frozen=True)
class Description:
    """`path` is absent for bundled data, for a hub's and for what the host generates."""

    kind: str
    name: str
    identity: str
    path: Path | None = None

    def files(self, suffixes: frozenset[str]) -> list[Path]:
        """Return the data's files that end in one of `suffixes`, in order; none is an error."""
        assert self.path is not None
        found = list(_walk(self.path, suffixes)) if self.path.is_dir() else [self.path]
        if not found:
            raise fail("AS702", f"'{self.name}' holds no file that ends in {', '.join(sorted(suffixes))}")
        return found


def setting(data: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return a key of the stanza, `from` being written with or without the dataclass's underscore."""
    return data.get(name, data.get(f"{name}_", default))


def describe(data: Mapping[str, Any], near: Path) -> Description:
    """Return what the stanza means. Reads names, sizes and a few bytes; opens nothing."""
    name, kind = str(setting(data, "from", "")), setting(data, "kind", "auto")
    if kind == "generated" or (kind == "auto" and setting(data, "prompts")):
        return Description("generated", name, _generated_identity(data, near))
    path = (near / Path(name).expanduser()).resolve()
    if kind == "bundled" or (kind == "auto" and name in BUNDLED):
        return _bundled(name, data)
    if not path.exists():
        return _remote(name, kind, path, data)
    kind = _kind_of(path, name) if kind == "auto" else kind
    return Description(kind, name, digest([kind, setting(data, "split", "train"), fingerprint(path)]), path)


CHOOSING: Mapping[str, Any] = {"column": None, "label": None, "fraction": 1.0, "seed": 0}
"""Keys of a stanza that decide which examples of the same data there are, with their defaults."""


def identity(data: Mapping[str, Any], near: Path) -> str:
    """Return the identity of the examples that a stanza stands for: of the content, and of what is taken of it. The
    seed decides nothing where everything is taken."""
    chosen = {name: setting(data, name, default) for name, default in CHOOSING.items()}
    if chosen["fraction"] == 1:
        del chosen["seed"]
    return digest([describe(data, near).identity, chosen])


def _bundled(name: str, data: Mapping[str, Any]) -> Description:
    if name not in BUNDLED:
        raise fail("AS701", f"no bundled data set '{name}'", None, *nearest(name, BUNDLED) or (f"known: {BUNDLED}",))
    return Description("bundled", name, digest(["bundled", name, setting(data, "split", "train"), 1]))


def _remote(name: str, kind: str, path: Path, data: Mapping[str, Any]) -> Description:
    """A name that is no path is a hub's, if it looks like one: `name` or `owner/name`."""
    file_like = kind not in ("auto", "parquet", "text", "images", "latents") or Path(name).suffix in SUFFIXES
    if file_like or name.count("/") > 1 or name.startswith((".", "/", "~")) or not name:
        raise fail("AS701", f"no data at '{name}'", None, f"looked for '{path}'", *nearest(name, BUNDLED))
    return Description("hub", name, digest(["hub", name, setting(data, "split", "train")]))


def _kind_of(path: Path, name: str) -> str:
    suffixes = {path.suffix.lower()} if path.is_file() else {f.suffix.lower() for f in _walk(path, None, limit=1000)}
    kinds = {"images" if s in IMAGES else SUFFIXES[s] for s in suffixes if s in IMAGES or s in SUFFIXES}
    if len(kinds) != 1:
        found = f"holds {' and '.join(sorted(kinds))}" if kinds else "holds no data that archspec knows"
        raise fail("AS702", f"'{name}' {found}", None, "write its kind, for example kind: images")
    return kinds.pop()


def _walk(folder: Path, suffixes: frozenset[str] | None, limit: int | None = None) -> Iterator[Path]:
    """Yield the files under a folder in the order of their names, hidden ones left out."""
    count = 0
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and (suffixes is None or path.suffix.lower() in suffixes):
            yield path
            count += 1
            if count == limit:
                return


def fingerprint(path: Path) -> str:
    """Return the content identity of a file or folder (see the module's text)."""
    if path.is_file():
        return digest(_content(path, path.stat().st_size <= WHOLE))
    files = list(_walk(path, None))
    stride = max(1, -(-len(files) // MOST_FILES))
    whole = stride == 1 and sum(file.stat().st_size for file in files) <= WHOLE
    chosen = [[str(f.relative_to(path)), *_content(f, whole)] for f in files[::stride]]
    return digest([len(files), chosen])


def _content(path: Path, whole: bool) -> list[Any]:
    """Return the size of a file, and the digest of its bytes, or of the first and the last of them."""
    size = path.stat().st_size
    if whole:
        return [size, known_hash(path)]
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(0, size - EDGE))
        return [size, xxhash.xxh3_128_hexdigest(head + file.read(EDGE))]


def _generated_identity(data: Mapping[str, Any], near: Path) -> str:
    prompts = setting(data, "prompts")
    lines = read_prompts(near / prompts) if prompts else []
    return digest(["generated", lines, setting(data, "samples"), setting(data, "seed", 0)])


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a file of prompts or class labels; empty lines are skipped."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise fail("AS701", f"no prompts at '{path}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise fail("AS704", f"cannot read the prompts in '{path}': {error}") from error
    found = [line for line in lines if line]
    if not found:
        raise fail("AS706", f"'{path}' holds no prompt", None, "write one prompt or class label a line")
    return found
