"""Finding subjects in a picture by a phrase: a detector gives boxes, a segmenter their masks.

Both are models of transformers, from a folder or, by its id, from the hub (with HF_HUB_OFFLINE from its cache). The
thresholds and the steps are FreeGraftor's: Grounding DINO with the subject's phrase, SAM with the boxes, one mask each,
sorted by score; of masks that overlap by more than 0.8 the better one stays.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from archspec.diagnostics import Collector
from archspec.runtime.collage.masks import Mask, Pixels, overlap
from archspec.runtime.collage.opening import check_whole, opened

Box = tuple[float, float, float, float]
SAME = 0.8


class Candidate(NamedTuple):
    """A box (left, top, right, bottom) in pixels and its score in [0, 1]."""

    box: Box
    score: float


@dataclass(frozen=True)
class Found:
    """A subject in a picture: its mask (H, W), and the score and box (left, top, right, bottom) of its detection."""

    mask: Mask
    score: float
    box: Box


class Detector:
    """A zero-shot detector such as Grounding DINO."""

    def __init__(self, source: Path | str, device: str | torch.device = "cpu") -> None:
        """Raises AS773 where `source` is no detector with all its files."""
        from transformers import AutoModelForZeroShotObjectDetection

        self.model, self.processor = _load(AutoModelForZeroShotObjectDetection, source, "zero-shot detector", device)

    @torch.no_grad()
    def candidates(self, image: Pixels, phrase: str, text_threshold: float = 0.25) -> list[Candidate]:
        """Return all boxes of which a word of the phrase has a score above `text_threshold`, the best first."""
        picture = Image.fromarray(image)
        inputs = self.processor(images=picture, text=[[phrase]], return_tensors="pt").to(self.model.device)
        told = {"input_ids": inputs["input_ids"], "text_threshold": text_threshold, "text_labels": [[phrase]]}
        boxes_of = self.processor.post_process_grounded_object_detection
        known = inspect.signature(boxes_of).parameters  # which differ: OWL's scores are of phrases, not of words
        told = {name: value for name, value in told.items() if name in known}
        found = boxes_of(self.model(**inputs), threshold=0.0, target_sizes=[image.shape[:2]], **told)[0]
        named = zip(found["boxes"].tolist(), found["scores"].tolist(), found["text_labels"], strict=True)
        return sorted((Candidate(tuple(b), s) for b, s, label in named if label), key=lambda c: -c.score)


class Segmenter:
    """A promptable segmenter such as SAM."""

    def __init__(self, source: Path | str, device: str | torch.device = "cpu") -> None:
        """Raises AS773 where `source` is no segmenter with all its files."""
        from transformers import AutoModelForMaskGeneration

        self.model, self.processor = _load(AutoModelForMaskGeneration, source, "segmenter", device)

    @torch.no_grad()
    def masks(self, image: Pixels, boxes: Sequence[Box]) -> Mask:
        """Return the mask of what each box holds, (boxes, H, W)."""
        if not boxes:
            return np.zeros((0, *image.shape[:2]), dtype=bool)
        picture = Image.fromarray(image)
        inputs = self.processor(images=picture, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
        device = self.model.device
        found = self.model(
            pixel_values=inputs["pixel_values"].to(device),
            input_boxes=inputs["input_boxes"].to(device, torch.float32),
            multimask_output=False,
        ).pred_masks.cpu()
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        masks: Mask = self.processor.image_processor.post_process_masks(found, *sizes)[0][:, 0].numpy()
        return masks


@dataclass(frozen=True)
class Finder:
    """A detector and a segmenter together. Boxes count above `box_threshold`, words above `text_threshold`."""

    detector: Detector
    segmenter: Segmenter
    box_threshold: float = 0.35
    text_threshold: float = 0.25

    def find(self, image: Pixels, phrase: str) -> list[Found]:
        """Return all that a phrase names in a picture, the best score first; perhaps nothing."""
        return self._segmented(image, self._boxes(image, phrase))

    def locate(self, image: Pixels, phrases: Sequence[str], where: str) -> list[Found]:
        """Return one subject for each phrase, in their order; a phrase that is there twice gets the two best.

        `where` names the picture in messages. Raises AS772 for every phrase of which the picture shows too few.
        """
        problems, found = Collector(), {}
        for phrase, wanted in Counter(phrases).items():
            boxes = self._boxes(image, phrase)
            subjects = self._segmented(image, boxes)
            found[phrase] = iter(subjects)
            if len(subjects) < wanted:
                count = f"{len(subjects)} of {wanted} subjects" if subjects else "nothing"
                problems.report("AS772", f"the detector finds {count} '{phrase}' in {where}", None, self._advice(boxes))
        problems.raise_if_errors()
        return [next(found[phrase]) for phrase in phrases]

    def _boxes(self, image: Pixels, phrase: str) -> list[Candidate]:
        words = " ".join(phrase.replace(".", " ").lower().split())  # Grounding DINO: small letters; dots part phrases
        return self.detector.candidates(image, words, self.text_threshold) if words else []

    def _segmented(self, image: Pixels, candidates: Sequence[Candidate]) -> list[Found]:
        good = [each for each in candidates if each.score > self.box_threshold]
        kept: list[Found] = []
        for each, mask in zip(good, self.segmenter.masks(image, [each.box for each in good]), strict=True):
            if mask.any() and all(overlap(mask, other.mask) <= SAME for other in kept):
                kept.append(Found(mask, each.score, each.box))
        return kept

    def _advice(self, candidates: Sequence[Candidate]) -> str:
        weak = max((each.score for each in candidates if each.score <= self.box_threshold), default=None)
        advice = "use another word or seed, or give a mask"
        if weak is None:
            return advice
        return f"the next box has a score of {weak:.2f}: lower the box threshold of {self.box_threshold:g}, or {advice}"


def _load(cls: Any, source: Path | str, what: str, device: str | torch.device) -> tuple[Any, Any]:
    """Return model and processor. No code of the source is run."""
    from transformers import AutoProcessor

    processor = opened(what, source, lambda: AutoProcessor.from_pretrained(source, trust_remote_code=False))
    options = {"trust_remote_code": False, "output_loading_info": True}
    model, report = opened(what, source, lambda: cls.from_pretrained(source, **options))
    check_whole(source, report["missing_keys"])
    return model.to(device).eval(), processor
