"""Measurements: one file each, of the tensors or modules that they are given."""
