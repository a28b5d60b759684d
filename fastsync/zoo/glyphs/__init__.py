"""Procedural letters and digits with captions: the training pictures of the embedded prior `glyphs`."""

from fastsync.zoo.glyphs.captions import caption, name, vocabulary
from fastsync.zoo.glyphs.glyph import CHARACTERS, INKS, PAPERS, Glyph, render, sample_glyph

__all__ = ["CHARACTERS", "INKS", "PAPERS", "Glyph", "caption", "name", "render", "sample_glyph", "vocabulary"]
