"""Wide procedural landscapes with captions: the training pictures of the embedded prior `scenes`."""

from fastsync.zoo.scenes.captions import caption, vocabulary
from fastsync.zoo.scenes.scene import PLACES, SEASONS, TIMES, WEATHERS, Scene, label, render, sample_scene

__all__ = [
    "PLACES",
    "SEASONS",
    "TIMES",
    "WEATHERS",
    "Scene",
    "caption",
    "label",
    "render",
    "sample_scene",
    "vocabulary",
]
