"""What a host takes, so that data can be made to fit: read from its folder, without building it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from archspec.runtime.store.home import Home, home, read_json

TEXT_LENGTH = 512
"""Tokens of an example of text, unless the host's longest text is shorter."""
SENTENCE_LENGTH = 128
"""The same, of an encoder, which reads one text at a time."""
NO_TOKENIZER = "put the tokenizer's files beside the host's config.json, or give a column input_ids"


@dataclass(frozen=True)
class Needs:
    """`shape` is (channels, height, width) of `x`; `home` is where the host lives (for `generated`)."""

    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    length: int = TEXT_LENGTH
    vocabulary: int | None = None
    tokenizer: Path | None = None
    autoencoder: Path | None = None
    folded: int = 1
    """Pixels side by side in one place of `x`, in its channels (`IdentityAutoencoder`)."""
    sentences: bool = False
    """Texts are read one by one, each padded, and not as one stream."""
    home: Home | None = None


def needs_of(folder: Path, length: int | None = None) -> Needs:
    """Return what the model in a model or pipeline folder takes. `length`: tokens of an example of text."""
    place = home(folder)
    longest = place.config.get("max_position_embeddings") or place.config.get("n_positions") or TEXT_LENGTH
    sentences = place.reads_text and (place.is_masked_model or place.is_headless)
    most = SENTENCE_LENGTH if sentences else TEXT_LENGTH
    return Needs(
        shape=place.shape,
        classes=place.classes,
        length=length or min(most, int(longest)),
        vocabulary=place.config.get("vocab_size"),
        tokenizer=place.tokenizer,
        autoencoder=_real_autoencoder(place),
        folded=place.folded,
        sentences=sentences,
        home=place,
    )


def _real_autoencoder(place: Home) -> Path | None:
    """The VAE's folder if it has weights to encode with; the identity has none."""
    folder = place.autoencoder
    if folder is None or not (folder / "config.json").is_file():
        return None
    return None if read_json(folder / "config.json").get("_class_name") == "IdentityAutoencoder" else folder
