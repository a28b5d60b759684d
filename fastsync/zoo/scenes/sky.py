"""Skies (gradient, sun, moon, stars, clouds) and what falls from them."""

from __future__ import annotations

import numpy as np

from fastsync.zoo.scenes.frame import Frame, mix, rgb
from fastsync.zoo.scenes.light import WHITE, Light
from fastsync.zoo.scenes.noise import Array, draw_seed, fbm2, noise2, smooth, uniform


def paint_sky(frame: Frame, light: Light, time: str, weather: str, horizon: float, rng: np.random.Generator) -> None:
    """Paint the whole frame with the sky, its colours ending at the horizon (units)."""
    t = frame.y[:, 0] / np.float32(horizon)
    bend = rng.uniform(0.42, 0.58)
    for c in range(3):
        frame.img[c] = np.interp(t, [0.0, bend, 1.0], [light.top[c], light.mid[c], light.low[c]])[:, None]
    sky = frame.band(0.0, horizon + 4)
    seeds = [draw_seed(rng) for _ in range(6)]
    phase, size = rng.random(), float(rng.uniform(5.5, 8.5))
    if time == "night" and weather in ("clear", "cloudy"):
        _stars(sky, horizon, 1.0 if weather == "clear" else 0.45, seeds[0])
    if weather in ("clear", "cloudy", "fog"):
        _disc(sky, light, time, weather, size, phase)
    if weather == "clear":
        _cirrus(sky, light, time, seeds[1], horizon)
    elif weather != "fog":
        _clouds(sky, light, time, weather, seeds[2], horizon, rng.uniform(-0.03, 0.04))


def _stars(sky: Frame, horizon: float, share: float, seed: int) -> None:
    """Small soft discs, one in a cell at most, thinning out towards the horizon."""
    size = 11.0
    ix, iy = np.floor(sky.x / size).astype(np.int64), np.floor(sky.y / size).astype(np.int64)
    cx = (ix + 0.2 + 0.6 * uniform(seed, iy, ix)) * size
    cy = (iy + 0.2 + 0.6 * uniform(seed + 1, iy, ix)) * size
    pick = uniform(seed + 2, iy, ix)
    radius = 0.7 + 0.75 * uniform(seed + 3, iy, ix) ** 3
    distance = np.hypot(sky.x - cx, sky.y - cy).astype(np.float32)
    glow = sky.soft(radius - distance, 0.8) * (pick < 0.5 * share * (1.1 - cy / horizon))
    sky.add(rgb(0.92, 0.95, 1.0), glow.astype(np.float32) * np.float32(0.95))


def _disc(sky: Frame, light: Light, time: str, weather: str, size: float, phase: float) -> None:
    """Sun or moon with its glow."""
    dx, dy = sky.x - np.float32(light.sun[0]), sky.y - np.float32(light.sun[1])
    distance = np.sqrt(dx * dx + dy * dy)
    veil = {"clear": 1.0, "cloudy": 0.8, "fog": 0.3}[weather]
    if time == "sunset":
        sky.add(rgb(1.0, 0.62, 0.2), np.exp(-distance / 46.0) * np.float32(0.8 * veil))
        size *= 1.35
    elif time == "night":
        sky.add(rgb(0.45, 0.55, 0.8), np.exp(-distance / 26.0) * np.float32(0.5 * veil))
    else:
        sky.add(light.glow, np.exp(-distance / 34.0) * np.float32(0.55 * veil))
    disc = sky.soft(size - distance, 0.5)
    if time == "night" and phase < 0.5:  # a crescent: the disc less a shifted disc
        disc *= 1.0 - sky.soft(size * 0.95 - np.hypot(dx - size * 0.6, dy + size * 0.25).astype(np.float32), 0.5)
    sky.paint(light.glow, disc * np.float32(veil))


def _cirrus(sky: Frame, light: Light, time: str, seed: int, horizon: float) -> None:
    """A few long soft streaks: a clear sky is not an empty one."""
    veil = fbm2(sky.x / 95.0, sky.y[:, 0] / 9.0, seed, 2)
    alpha = smooth((veil - 0.6) * 4.0) * np.float32(0.12 if time == "night" else 0.5)
    colour = {"dawn": mix(light.low, WHITE, 0.45), "noon": WHITE, "sunset": rgb(1.0, 0.6, 0.42), "night": light.low}
    sky.paint(colour[time], alpha * smooth(1.15 - sky.y / np.float32(horizon)))


def _clouds(sky: Frame, light: Light, time: str, weather: str, seed: int, horizon: float, shift: float) -> None:
    """Heaped clouds in two tones, denser in rain and snow."""
    x, y = sky.x / 46.0, sky.y[:, 0] / 17.0
    body = fbm2(x, y, seed, 3)
    above = fbm2(x, y - np.float32(0.3), seed, 2)
    threshold = {"cloudy": 0.47, "rain": 0.34, "snow": 0.34}[weather] + shift
    alpha = smooth((body - threshold) * 9.0)
    bright, dark = {
        "dawn": (rgb(1.0, 0.90, 0.88), rgb(0.72, 0.66, 0.80)),
        "noon": (rgb(1.0, 1.0, 1.0), rgb(0.68, 0.76, 0.86)),
        "sunset": (rgb(1.0, 0.56, 0.34), rgb(0.50, 0.19, 0.36)),
        "night": (rgb(0.20, 0.27, 0.46), rgb(0.07, 0.10, 0.23)),
    }[time]
    if weather in ("rain", "snow"):
        gloom = 0.5 if weather == "rain" else 0.2
        bright = mix(bright, dark, gloom)
        dark = (dark * (0.82 if weather == "rain" else 1.0)).astype(np.float32)
    lit = smooth((body - above) * 3.2 + 0.5)
    if time == "sunset":  # lit from beneath
        lit = 1.0 - lit
    colour = dark[:, None, None] + (bright - dark)[:, None, None] * lit
    sky.paint(colour, alpha * smooth((1.08 - sky.y / np.float32(horizon)) * 3.0) * np.float32(0.92))


def paint_weather(frame: Frame, light: Light, time: str, weather: str, rng: np.random.Generator) -> None:
    """Rain, snowfall or drifting fog in front of everything."""
    seed = draw_seed(rng)
    if weather == "rain":
        _rain(frame, mix(light.haze, WHITE, 0.3), 0.32, seed)
    elif weather == "snow":
        _snowfall(frame, mix(light.haze, WHITE, 0.45 if time == "night" else 0.85), seed)
    elif weather == "fog":
        drift = fbm2(frame.x / 120.0, frame.y[:, 0] / 22.0, seed, 2)
        frame.paint(
            light.haze,
            smooth((drift - 0.42) * 3.5) * smooth(frame.y / 50.0) * np.float32(0.34 if time == "night" else 0.46),
        )


def _rain(frame: Frame, colour: Array, strength: float, seed: int) -> None:
    """Soft slanted streaks about two pixels wide."""
    u, v = frame.x + np.float32(0.28) * frame.y, frame.y
    column = np.floor(u / 10.0).astype(np.int64)
    v = v + 60.0 * uniform(seed, column)
    row = np.floor(v / 26.0).astype(np.int64)
    across = np.abs(u / 10.0 - column - (0.3 + 0.4 * uniform(seed + 1, column, row))) * 10.0
    along = np.abs(v / 26.0 - row - 0.5) * 2.0
    alpha = frame.soft((1.0 - across).astype(np.float32), 0.9) * smooth((0.85 - along).astype(np.float32) * 3.0)
    frame.paint(colour, (alpha * np.float32(strength)).astype(np.float32))


def _snowfall(frame: Frame, colour: Array, seed: int) -> None:
    """Soft discs of two sizes."""
    for size, radius in ((17.0, 1.3), (26.0, 2.1)):
        seed += 11
        ix, iy = np.floor(frame.x / size).astype(np.int64), np.floor(frame.y / size).astype(np.int64)
        cx = (ix + 0.22 + 0.56 * uniform(seed, iy, ix)) * size
        cy = (iy + 0.22 + 0.56 * uniform(seed + 1, iy, ix)) * size
        distance = np.sqrt((frame.x - cx) ** 2 + (frame.y - cy) ** 2).astype(np.float32)
        frame.paint(colour, frame.soft(np.float32(radius) - distance, 0.9) * np.float32(0.9))


def ripples(frame: Frame, seed: int, stretch: float, fineness: float) -> Array:
    """Lying, elongated noise [H, W] in [0, 1] for water: rows get finer towards the frame's top."""
    y = frame.y[:, 0] - frame.y[0, 0]
    return noise2(frame.x / np.float32(stretch), np.sqrt(y + 1.0) * np.float32(fineness), seed)
