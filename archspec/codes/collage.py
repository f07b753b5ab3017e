"""Codes of collages: masks, finding and placing subjects. They belong to the stage of data, plans and running."""

from archspec.codes.base import Code

CODES = (
    Code(
        "AS770",
        "an empty mask",
        "A mask says which pixels of a picture are the subject: those that are half white or more, or half opaque in a "
        "picture with transparency. A mask without any would drop the subject without a word.",
        bad="mask: dog.png      # labels 0 and 1, which are both nearly black",
        good="mask: dog.png      # black and white",
    ),
    Code(
        "AS771",
        "a mask of another size",
        "A mask belongs to one picture, pixel by pixel. It is not resized: nothing says what was cut.",
        bad="mask: dog-256.png      # dog.png is of 1024 x 768 pixels",
        good="mask: dog-mask.png     # drawn over dog.png",
    ),
    Code(
        "AS772",
        "a subject that is not found",
        "The detector finds nothing in the picture for this phrase, or fewer subjects than go by it. No subject is "
        "left out silently.",
        bad="subject: {name: the thing from before, image: dog.png}",
        good="subject: {name: dog, image: dog.png}",
    ),
    Code(
        "AS773",
        "no detector, segmenter or inpainter there",
        "Detectors and segmenters are models of transformers (zero-shot object detection, mask generation) with their "
        "processors, inpainters pipelines of diffusers. All their weights must be there.",
        bad="detector: ./sam-vit-huge",
        good="detector: ./grounding-dino-tiny",
    ),
    Code(
        "AS774",
        "a placement that cannot be",
        "Scale is positive, angle and shift are finite numbers. A subject is aligned by its centroid or by one of "
        "its four edges. It may be larger than the picture, but not more than four times.",
        bad="place: {scale: 0, align: middle}",
        good="place: {scale: 1.2, align: centroid}",
    ),
    Code(
        "AS775",
        "a subject that would not be seen",
        "The placement moves the subject out of the picture, makes it smaller than a pixel, or later subjects cover "
        "all of it.",
        bad="place: {shift: [5000, 0]}",
        good="place: {shift: [50, 0]}",
    ),
    Code(
        "AS776",
        "a subject that is seen in part",
        "What lies beyond the picture's borders is cut off, and later subjects are pasted over earlier ones. This is a "
        "warning: it may be what is wanted.",
        bad="place: {scale: 3, align: bottom}",
        good="place: {scale: 1.5, align: bottom}",
    ),
    Code(
        "AS777",
        "a package that is missing",
        "Packages that only one feature uses are not installed with archspec but with the extra that is named.",
        bad="pip install archspec-compiler",
        good='pip install "archspec-compiler[features]"',
    ),
    Code(
        "AS778",
        "a mask that is of no use to the tokens",
        "A token of a diffusion transformer is a square. Tokens must tile the picture, and the mask must hold "
        "the least share of at least one of them.",
        bad="a template of 500 x 512 pixels for 32 x 32 tokens",
        good="a template of 512 x 512 pixels for 32 x 32 tokens",
    ),
    Code(
        "AS779",
        "a template that could not be inpainted",
        "The template's subjects are removed before others take their places. That takes a surrounding to paint "
        "from, and a pipeline, if one is given, that runs on the picture.",
        bad="places: [whole-picture.png]",
        good="places: [dog.png]",
    ),
)
