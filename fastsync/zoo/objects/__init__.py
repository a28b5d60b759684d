"""Painted procedural objects with depth and captions: the training pictures of the embedded prior `scenes-depth`."""

from fastsync.zoo.objects.captions import caption, vocabulary
from fastsync.zoo.objects.materials import MATERIALS
from fastsync.zoo.objects.shapes import SHAPES
from fastsync.zoo.objects.thing import Thing, render, sample_thing

__all__ = ["MATERIALS", "SHAPES", "Thing", "caption", "render", "sample_thing", "vocabulary"]
