"""A scene's attributes, how they are drawn, and how a scene becomes a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsync.errors import check_choice, check_int
from fastsync.zoo.scenes.frame import Frame
from fastsync.zoo.scenes.light import make_light
from fastsync.zoo.scenes.places import PAINTERS
from fastsync.zoo.scenes.sky import paint_sky, paint_weather

PLACES = ("mountains", "dunes", "sea", "forest", "city", "hills")
TIMES = ("dawn", "noon", "sunset", "night")
WEATHERS = ("clear", "cloudy", "rain", "snow", "fog")
SEASONS = ("spring", "summer", "autumn", "winter")


@dataclass(frozen=True)
class Scene:
    """One landscape: its place, time of day, weather and season (see the tuples above), and a seed for the rest."""

    place: str
    time: str
    weather: str
    season: str
    seed: int

    def __post_init__(self) -> None:
        for name, known in (("place", PLACES), ("time", TIMES), ("weather", WEATHERS), ("season", SEASONS)):
            check_choice(f"a scene's {name}", getattr(self, name), known)
        check_int("a scene's seed", self.seed, minimum=0)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: places and times evenly, clear and cloudy a bit more often, snow neither on dunes nor in summer."""
    place, time = PLACES[int(rng.integers(len(PLACES)))], TIMES[int(rng.integers(len(TIMES)))]
    chances = np.array([0.28, 0.26, 0.15, 0.15 if place != "dunes" else 0.0, 0.16])
    weather = WEATHERS[int(rng.choice(len(WEATHERS), p=chances / chances.sum()))]
    season = (
        ("autumn", "winter", "winter")[int(rng.integers(3))] if weather == "snow" else SEASONS[int(rng.integers(4))]
    )
    return Scene(place, time, weather, season, int(rng.integers(2**31)))


def render(scene: Scene, width: int = 512, height: int = 128) -> NDArray[np.uint8]:
    """Paint a scene: uint8 [height, width, 3] RGB.

    Deterministic, and a wider picture of the same height begins with the narrower one:
    `render(s, 1024)[:, :512]` equals `render(s, 512)`.
    """
    width, height = check_int("width", width), check_int("height", height)
    rng = np.random.default_rng([scene.seed, PLACES.index(scene.place), TIMES.index(scene.time)])
    light = make_light(scene.time, scene.weather, scene.season, rng)
    painter, (low, high) = PAINTERS[scene.place]
    horizon = float(rng.uniform(low, high))
    # Whole vectors of 64 columns: SIMD remainders may round differently, which would break the prefix property.
    frame = Frame.blank(-(-width // 64) * 64, height)
    paint_sky(frame, light, scene.time, scene.weather, horizon, rng)
    painter(frame, light, scene.season, scene.time, horizon, rng)
    paint_weather(frame, light, scene.time, scene.weather, rng)
    pixels = np.clip(frame.img[:, :, :width] * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def label(scene: Scene) -> tuple[int, int, int]:
    """Indices of the scene's place, time and weather in PLACES, TIMES and WEATHERS."""
    return PLACES.index(scene.place), TIMES.index(scene.time), WEATHERS.index(scene.weather)
