"""The second host of docs/results/grafting.md, of Fashion-MNIST: its tables, its goals, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.grafting_page import ARMS, FASHION, Goal, Key, Table, fid

MIXERS: Mapping[Key, str] = {
    ("hyena_se",): fid(2.73),
    ("hyena_x",): fid(2.74),
    ("hyena_y",): fid(2.72),
    ("swa",): fid(2.67),
}
MLPS: Mapping[Key, str] = {("r3",): fid(2.66), ("r6",): fid(2.42)}
FASHION_TABLES = (
    Table(
        "Fashion-MNIST: attention replaced in half of the blocks",
        "fashion_attention",
        ("op",),
        MIXERS,
        arms=(*ARMS, "long"),
        host=FASHION,
    ),
    Table("Fashion-MNIST: MLPs replaced in all blocks", "fashion_mlp", ("op",), MLPS, host=FASHION),
    Table(
        "Fashion-MNIST: half the depth", "fashion_parallel", ("arm",), {("paper",): fid(2.77)}, arms=(), host=FASHION
    ),
)
FASHION_GOALS = (
    Goal("Fashion-MNIST: MLP r = 3 and r = 6 in all blocks", "fashion_mlp", 1.05, tuple(MLPS)),
    Goal("Fashion-MNIST: attention hybrids of half of the blocks", "fashion_attention", 1.10, tuple(MIXERS)),
    Goal("the same, on drawn images alone, in many steps", "fashion_attention", 1.10, tuple(MIXERS), "long"),
    Goal("Fashion-MNIST: parallel pairs at half depth", "fashion_parallel", 1.20, (("ours",),), ""),
    Goal("the same, on images that the host draws", "fashion_parallel", 1.20, (("drawn",),), ""),
)
INTRO = """\
Another host and other data: `specs/hosts/fashion-64`, six blocks as before, 64 patches of 2 x 2 pixels, trained by
this project on 153,600 noised images of Fashion-MNIST, brought to 16 x 16 pixels; its FD to the training images is
{host} (500 samples, 20 steps). All members learn from the same 1,200 images, and every plan runs models on at most
3,072 noised ones, 2 % of what the host was trained on: here the recipes are compared at equal images (what the host
draws itself, for *long* and *drawn*, is none of these). **paper**: as
above, 512 images, 40 epochs, then 76 steps. **ours**, attention: closed form, a regression from there, 53 steps to
data and teacher; MLP: closed form and 48 steps; of both the better of start and result is kept, by the teacher's
output on held-out images. **long**: ours with images that the host draws alone, 1,024 to regress on and 600 steps.
Half the depth: merges in closed form one after the other, 61 steps; **drawn**: then 1,500 on drawn images. All replace
the same attentions, the three of least locality, by the same operators.

Share of attention within 8 places in raster order and influence, measured as above.
"""
