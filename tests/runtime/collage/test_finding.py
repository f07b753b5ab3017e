"""Detectors and segmenters of transformers, tiny and random, load and run; what they do not find is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from archspec.diagnostics import ArchspecError
from archspec.runtime.collage import Detector, Finder, Segmenter
from archspec.runtime.collage.finding import Box, Candidate
from archspec.runtime.collage.masks import Mask, Pixels, overlap


def test_boxes_are_the_models(grounding_dino: Path, picture: Pixels) -> None:
    detector = Detector(grounding_dino)
    found = detector.candidates(picture, "red ball")
    inputs = detector.processor(images=Image.fromarray(picture), text="red ball.", return_tensors="pt")
    with torch.no_grad():
        raw = detector.model(**inputs)
    scores = raw.logits[0].sigmoid().amax(-1)
    best = int(scores.argmax())
    x, y, width, height = raw.pred_boxes[0, best].tolist()
    wanted = (80 * (x - width / 2), 60 * (y - height / 2), 80 * (x + width / 2), 60 * (y + height / 2))
    assert found[0].box == pytest.approx(wanted, abs=1e-4)
    assert found[0].score == pytest.approx(float(scores[best]))
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert detector.candidates(picture, "red ball", text_threshold=1.0) == []


def test_other_detectors_run_too(owl: Path, picture: Pixels) -> None:
    found = Detector(owl).candidates(picture, "dog")
    assert len(found) == 16  # one of each patch


def test_masks_are_the_models(sam: Path, picture: Pixels) -> None:
    segmenter, boxes = Segmenter(sam), [(10.0, 5.0, 40.0, 50.0), (30.0, 20.0, 70.0, 55.0)]
    found = segmenter.masks(picture, boxes)
    assert found.shape == (2, 60, 80)
    assert found.dtype == bool
    scaled = torch.tensor([[[side * 64 / 80 for side in box] for box in boxes]])
    pixels = segmenter.processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        raw = segmenter.model(pixel_values=pixels, input_boxes=scaled, multimask_output=False).pred_masks[0, :, 0]
    large = torch.nn.functional.interpolate(raw[None], (64, 64), mode="bilinear")[..., :48, :]
    wanted = torch.nn.functional.interpolate(large, (60, 80), mode="bilinear")[0] > 0
    assert np.array_equal(found, wanted.numpy())
    assert segmenter.masks(picture, []).shape == (0, 60, 80)


def test_found_subjects_differ(grounding_dino: Path, sam: Path, picture: Pixels) -> None:
    finder = Finder(Detector(grounding_dino), Segmenter(sam), box_threshold=0.0, text_threshold=0.0)
    found = finder.find(picture, "A red ball.")
    assert found
    assert len(found) < len(finder.detector.candidates(picture, "a red ball", 0.0))  # some are the same subject
    for number, each in enumerate(found):
        assert each.mask.shape == (60, 80)
        assert all(overlap(each.mask, other.mask) <= 0.8 for other in found[:number])


def test_each_phrase_that_finds_nothing_is_told(grounding_dino: Path, sam: Path, picture: Pixels) -> None:
    finder = Finder(Detector(grounding_dino), Segmenter(sam), box_threshold=0.99999999)
    with pytest.raises(ArchspecError) as caught:
        finder.locate(picture, ["dog", "hat", " . "], "the template")
    told = caught.value.diagnostics
    assert [(d.code, d.message) for d in told] == [
        ("AS772", f"the detector finds nothing '{phrase}' in the template") for phrase in ("dog", "hat", " . ")
    ]
    assert "the next box has a score of 1.00: lower the box threshold" in told[0].hints[0]
    assert told[2].hints == ("use another word or seed, or give a mask",)


class Boxes:
    """Stands for a detector that knows where things are."""

    def __init__(self, **places: list[tuple[Box, float]]) -> None:
        self.places = places

    def candidates(self, image: Pixels, phrase: str, text_threshold: float) -> list[Candidate]:
        return [Candidate(*each) for each in self.places.get(phrase, [])]


class Filled:
    """Stands for a segmenter that fills boxes."""

    def masks(self, image: Pixels, boxes: list[Box]) -> Mask:
        found = np.zeros((len(boxes), *image.shape[:2]), dtype=bool)
        for mask, (left, top, right, bottom) in zip(found, boxes, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = True
        return found


def finder(**places: list[tuple[Box, float]]) -> Finder:
    return Finder(Boxes(**places), Filled())  # type: ignore[arg-type]


def test_subjects_of_one_phrase_are_given_by_score(picture: Pixels) -> None:
    dogs: list[tuple[Box, float]] = [((0, 0, 10, 10), 0.9), ((0, 0, 10, 9), 0.8), ((30, 0, 40, 10), 0.7)]
    found = finder(dog=dogs, hat=[((5, 5, 9, 9), 0.5)]).locate(picture, ["dog", "hat", "dog"], "the template")
    assert [each.box for each in found] == [dogs[0][0], (5, 5, 9, 9), dogs[2][0]]  # the second is the first again
    with pytest.raises(ArchspecError, match=r"AS772.*finds 2 of 3 subjects 'dog' in the donor"):
        finder(dog=dogs).locate(picture, ["dog"] * 3, "the donor")


def test_an_empty_mask_is_nothing(picture: Pixels) -> None:
    assert finder(dog=[((5, 5, 5, 5), 0.9)]).find(picture, "dog") == []


def test_folders_of_other_models(grounding_dino: Path, sam: Path, tmp_path: Path) -> None:
    for cls, folder in ((Detector, sam), (Segmenter, grounding_dino), (Detector, tmp_path), (Segmenter, "no/such-id")):
        with pytest.raises(ArchspecError, match="AS773"):
            cls(folder)
    with pytest.raises(ArchspecError, match=r"AS773.*there is no folder"):
        Detector(tmp_path / "none")


def test_weights_that_are_not_there(sam: Path, tmp_path: Path) -> None:
    shutil.copytree(sam, tmp_path / "part")
    weights = load_file(sam / "model.safetensors")
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArchspecError, match=r"AS773.*lacks 1 of its tensors, 'mask_decoder.iou_token.weight'"):
        Segmenter(tmp_path / "part")
    (tmp_path / "part" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArchspecError, match=r"AS773"):
        Segmenter(tmp_path / "part")
