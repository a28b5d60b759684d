"""One light for a whole picture: sky colours, haze and the multipliers of lit and shaded local colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastsync.zoo.scenes.frame import Colour, mix, rgb

WHITE = rgb(1.0, 1.0, 1.0)
SNOW = rgb(0.93, 0.96, 1.0)


@dataclass(frozen=True)
class Light:
    """Time of day and weather as colours.

    top, mid, low: the sky from zenith to horizon; haze: what distance fades to; key, tint, shadow: multipliers of local
    colours on lit, ordinary and shaded sides; glow: the disc of sun or moon; veil: (near, far) opacity of the haze;
    lamps: share of lit windows; snow: snow cover of the ground;
    grey: share of local colours' hue that the dark takes; sun: (x, y) of the disc in units, side: where the light
    comes from (-1 left, 1 right).
    """

    top: Colour
    mid: Colour
    low: Colour
    haze: Colour
    key: Colour
    tint: Colour
    shadow: Colour
    glow: Colour
    veil: tuple[float, float]
    lamps: float
    snow: float
    grey: float
    sun: tuple[float, float]
    side: float

    def shade(self, local: Colour, depth: float, lit: float = 0.5) -> Colour:
        """A local colour as seen at depth (0 near, 1 far), lit from 0 (shadow) over 0.5 to 1 (facing the light)."""
        factor = mix(self.tint, self.key, 2 * lit - 1) if lit > 0.5 else mix(self.shadow, self.tint, 2 * lit)
        near, far = self.veil
        local = mix(local, np.full(3, float(local.mean()), np.float32), self.grey)
        return mix(np.clip(local * factor, 0, 1), self.haze, near + (far - near) * depth)

    def ground(self, local: Colour, share: float = 1.0) -> Colour:
        """A ground's local colour under the season's and the weather's snow (share: how much of it can be covered)."""
        return mix(local, SNOW, self.snow * share)


# For every time: top, mid, low, haze; key, tint, shadow, glow.
# fmt: off
_TIMES = {
    "dawn": ((0.57, 0.62, 0.84), (0.85, 0.75, 0.88), (1.00, 0.84, 0.80), (0.94, 0.82, 0.87),
             (1.00, 0.86, 0.84), (0.80, 0.73, 0.86), (0.58, 0.55, 0.74), (1.00, 0.93, 0.86)),
    "noon": ((0.13, 0.42, 0.85), (0.38, 0.68, 0.95), (0.78, 0.92, 0.99), (0.72, 0.87, 0.97),
             (1.06, 1.05, 1.00), (0.88, 0.90, 0.92), (0.52, 0.60, 0.78), (1.00, 0.99, 0.88)),
    "sunset": ((0.26, 0.12, 0.40), (0.86, 0.27, 0.31), (1.00, 0.69, 0.22), (0.94, 0.46, 0.26),
               (1.00, 0.54, 0.30), (0.46, 0.28, 0.32), (0.20, 0.10, 0.22), (1.00, 0.90, 0.55)),
    "night": ((0.02, 0.03, 0.13), (0.05, 0.09, 0.27), (0.15, 0.24, 0.48), (0.15, 0.24, 0.47),
              (0.50, 0.61, 0.90), (0.24, 0.32, 0.56), (0.10, 0.15, 0.33), (0.96, 0.97, 0.90)),
}
# fmt: on
# How much the sky loses its colour, how bright it stays, and the haze's opacity near and far.
_WEATHERS = {
    "clear": (0.00, 1.00, (0.00, 0.62)),
    "cloudy": (0.25, 0.96, (0.03, 0.66)),
    "rain": (0.45, 0.78, (0.08, 0.74)),
    "snow": (0.35, 0.98, (0.08, 0.72)),
    "fog": (0.45, 1.00, (0.15, 0.91)),
}
_LAMPS = {"dawn": 0.15, "noon": 0.0, "sunset": 0.45, "night": 0.62}
_SUN_HEIGHTS = {"dawn": (30.0, 56.0), "noon": (10.0, 26.0), "sunset": (34.0, 62.0), "night": (14.0, 36.0)}


def make_light(time: str, weather: str, season: str, rng: np.random.Generator) -> Light:
    """The light of a time, a weather and a season, varied a little by rng."""
    colours = [np.array(c, np.float32) for c in _TIMES[time]]
    warm = rng.uniform(-1, 1)
    tilt = rgb(1 + 0.035 * warm, 1 + 0.02 * rng.uniform(-1, 1), 1 - 0.035 * warm)
    value = rng.uniform(0.95, 1.04)
    top, mid, low, haze, key, tint, shadow, glow = (np.clip(c * tilt * value, 0, 1.1) for c in colours)
    grey, bright, veil = _WEATHERS[weather]

    def overcast(colour: Colour) -> Colour:
        # Towards the haze's own grey, never a neutral one: the time of day must survive the weather.
        grey_of_hour = mix(np.full(3, float(colour.mean()), np.float32), haze, 0.55)
        return (mix(colour, grey_of_hour, grey) * bright).astype(np.float32)

    if weather == "fog":
        if time == "noon":
            haze = mix(haze, rgb(0.86, 0.90, 0.93), 0.7)
        top, mid, low = mix(top, haze, 0.5), mix(mid, haze, 0.72), mix(low, haze, 0.85)
    else:
        top, mid, low = overcast(top), overcast(mid), overcast(low)
    haze = (haze * (1 - 0.6 * (1 - bright))).astype(np.float32)
    if time == "dawn":  # morning mist lies everywhere
        veil = (veil[0] + 0.10, min(veil[1] + 0.08, 0.92))
    if weather != "clear":  # a hidden sun leaves less difference between the sides
        key = mix(key, tint, 0.3 if weather in ("cloudy", "snow") else 0.6)
        shadow = mix(shadow, tint, 0.2 if weather == "cloudy" else 0.4)
    cover = 0.85 if weather == "snow" else 0.62 if season == "winter" else 0.0
    low_y, high_y = _SUN_HEIGHTS[time]
    sun = (float(rng.uniform(30, 480)), float(rng.uniform(low_y, high_y)))
    side = -1.0 if rng.random() < 0.5 else 1.0
    return Light(
        top,
        mid,
        low,
        haze,
        key,
        tint,
        shadow,
        glow,
        veil,
        _LAMPS[time],
        cover,
        0.45 if time == "night" else 0.0,
        sun,
        side,
    )
