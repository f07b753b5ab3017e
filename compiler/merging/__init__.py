"""Merges of whole checkpoints: tensors of several models of one architecture combined, one block of numbers at a time.

    layout   a configuration and headers to what is done to each tensor     no weight is read
    blocks   tensors of files, a block at a time
    select   the exact k-th largest magnitude of what is streamed
    methods  linear, task arithmetic, TIES, DARE, SLERP, SCE on blocks
    write    the merged checkpoint, published in one rename

`archspec.language.merging` reads the configuration, which is mergekit's YAML.
"""
