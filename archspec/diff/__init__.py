"""Comparing specs, checkpoints and hosts: outlines, changes, reports."""
