"""Checkpoints of other code as archspec's own: the published DiT files, and the grafted ones of arXiv 2506.05340.

    state      a pickle, read as tensors alone
    recipe     where each tensor of the result is in the published file
    dit        the layout of facebookresearch/DiT, as diffusers' DiTTransformer2DModel
    modules    the table of published operator modules
    published  the configs that came with the grafted checkpoints, with their known mistakes
    convert    a file to a folder, or a config to a spec

The file is the truth: which operator stands where is read off the names and shapes of its tensors. A config adds what
tensors cannot show (the width of a window), and every contradiction between the two is an error.
"""
