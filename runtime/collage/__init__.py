"""Collage: subjects of donor pictures pasted into a template, where and as large as the template's own subjects are.

This is the first half of FreeGraftor's structure-consistent initialization (2504.15958, section 3): what comes out is
one picture with the wanted layout, and the mask of what was pasted. Inverting it gives the noise to start from.

    finder = Finder(Detector(folder), Segmenter(folder))
    found = finder.locate(template, ["dog", "hat"], "the template")
    places = [Place(each.mask) for each in found]
    collage = make_collage(template, places, subjects)
    tokens = to_tokens(collage.mask, rows, columns)

Pictures are uint8 arrays (height, width, 3), masks bool arrays (height, width). Points are (x, y) in pixels, x to the
right and y down, pixel centres at whole numbers. Nothing here changes its arguments.
"""

from archspec.runtime.collage.finding import Detector, Finder, Found, Segmenter
from archspec.runtime.collage.inpaint import DiffusersInpainter, Inpainter, TeleaInpainter
from archspec.runtime.collage.making import Collage, Subject, make_collage
from archspec.runtime.collage.masks import read_mask, read_picture
from archspec.runtime.collage.placement import Place, Placement, box_place
from archspec.runtime.collage.tokens import to_tokens

__all__ = [
    "Collage",
    "Detector",
    "DiffusersInpainter",
    "Finder",
    "Found",
    "Inpainter",
    "Place",
    "Placement",
    "Segmenter",
    "Subject",
    "TeleaInpainter",
    "box_place",
    "make_collage",
    "read_mask",
    "read_picture",
    "to_tokens",
]
