"""Compiled models as classes of diffusers and transformers."""
