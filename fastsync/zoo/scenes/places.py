"""The six places, each painted from far to near over a finished sky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastsync.zoo.scenes.frame import Colour, Frame, mix, rgb, slots
from fastsync.zoo.scenes.light import WHITE, Light
from fastsync.zoo.scenes.noise import Array, draw_seed, fbm1, noise1, noise2, smooth
from fastsync.zoo.scenes.shapes import (
    LAMP,
    foliage,
    paint_conifers,
    paint_crowns,
    paint_houses,
    paint_sails,
    paint_towers,
)
from fastsync.zoo.scenes.sky import ripples

Painter = Callable[[Frame, Light, str, str, float, np.random.Generator], None]


def _vary(colour: Colour, rng: np.random.Generator, amount: float = 0.06) -> Colour:
    """A local colour varied by seed, so that a class is not one palette."""
    return np.clip(colour * (1 + amount * rng.uniform(-1, 1, 3)) * rng.uniform(0.95, 1.05), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class _Peaks:
    """A row of peaks at each x: its line (units), centre and top of the peak that owns x, and how much x lies in a
    valley (0-1), where the sides' light must meet."""

    line: Array
    centre: Array
    apex: Array
    valley: Array


def _peaks(x: Array, size: float, base: float, height: float, floor: Array, seed: int, curve: float) -> _Peaks:
    """Upper envelope of a floor line and one peak in every size units; curve bends flanks (1: straight)."""
    line, second = np.full_like(x, 400.0), np.full_like(x, 400.0)
    centre, apex = np.zeros_like(x), np.zeros_like(x)
    for slot in slots(x, size, seed, 0.5, 1):
        tall = height * (0.6 + 0.4 * slot.random(1))
        wide = size * (0.52 + 0.22 * slot.random(2))
        t = np.abs(x - slot.centre) / wide
        mine = (base - tall * (1.0 - np.where(t < 1, t**curve, t))).astype(np.float32)
        best = mine < line
        second = np.where(best, line, np.minimum(second, mine))
        line = np.where(best, mine, line)
        centre = np.where(best, slot.centre, centre)
        apex = np.where(best, base - tall, apex).astype(np.float32)
    valley = 1.0 - smooth((np.minimum(second, floor) - line) / np.float32(0.28 * height))
    return _Peaks(np.minimum(line, floor).astype(np.float32), centre, apex, valley)


def _zigzag(t: Array) -> Array:
    """Triangle wave of period 1 in [-1, 1]."""
    return (4.0 * np.abs(t - np.floor(t + 0.5)) - 1.0).astype(np.float32)


def mountains(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Three chains of faceted, snow-capped peaks behind dark foothills or a lake."""
    rock = _vary(rgb(0.46, 0.46, 0.54), rng)
    cap = mix(rgb(0.98, 0.98, 1.0), WHITE, 0.5)
    low_snow = 0.38 if light.snow < 0.1 else 0.66
    # Two rows a chain: where one peak ends, another's flank crosses it, so no valley is a vertical seam.
    rows = ((0.98, 92.0, 42.0, 0.0), (0.86, 96.0, 46.0, 5.0), (0.62, 118.0, 54.0, 14.0), (0.48, 122.0, 56.0, 20.0),
            (0.24, 140.0, 52.0, 31.0), (0.10, 146.0, 50.0, 38.0))  # fmt: skip
    for depth, size, height, drop in rows:
        seed = draw_seed(rng)
        size *= rng.uniform(0.85, 1.15)
        height *= rng.uniform(0.9, 1.1)
        base = horizon + drop + 6
        floor = np.full_like(frame.fine, base - 0.1 * height)
        peaks = _peaks(frame.fine, size, base, height, floor, seed, 0.92)
        line = peaks.line + (fbm1(frame.fine / 9.0, seed + 1, 2) - 0.5) * np.float32(0.14 * height)
        band = frame.band(float(line.min()) - 2)
        owner, apex = peaks.centre[1], peaks.apex[1]
        fall = band.y - apex
        edge = (
            owner
            + _zigzag(band.y / np.float32(0.24 * height) + owner * 0.13) * (1.0 + 0.10 * fall)
            + light.side * 0.14 * fall
        )
        sunny = band.soft(((band.x - edge) * np.float32(light.side)).astype(np.float32), 0.6)
        sunny = sunny + (0.55 - sunny) * peaks.valley[1]
        bright, dark = light.shade(rock, depth, 0.85), light.shade(rock, depth, 0.12)
        colour = dark[:, None, None] + (bright - dark)[:, None, None] * sunny
        bright, dark = light.shade(cap, 0.8 * depth, 1.0), light.shade(cap, 0.8 * depth, 0.3)
        snow = dark[:, None, None] + (bright - dark)[:, None, None] * sunny
        teeth = _zigzag(band.x / np.float32(0.15 * size) + 2.2 * noise1(band.x / 17.0, seed + 2))
        reach = height * (
            low_snow + (0.07 if low_snow < 0.5 else 0.045) * teeth + 0.18 * (noise1(band.x / 23.0, seed + 3) - 0.5)
        )
        limit = base - height + reach - 0.25 * np.abs(band.x - owner) * (1 - low_snow)
        colour += (snow - colour) * band.soft((limit - band.y).astype(np.float32), 0.4)
        fog = smooth((band.y - (base - 0.30 * height)) / np.float32(0.9 * height)) * np.float32(0.75 * depth + 0.15)
        colour += (light.haze[:, None, None] - colour) * fog
        band.paint(colour, band.below(line.astype(np.float32)))
    if rng.random() < 0.35:
        _lake(frame, light, horizon + 40 + rng.uniform(-4, 4), draw_seed(rng))
    else:
        seed = draw_seed(rng)
        ground = horizon + 44 + (fbm1(frame.fine / 60.0, seed, 2) - 0.5) * np.float32(18.0)
        meadow = light.ground(_vary({"autumn": rgb(0.62, 0.46, 0.22)}.get(season, rgb(0.30, 0.46, 0.26)), rng))
        band = frame.band(float(ground.min()) - 2)
        band.paint(light.shade(meadow, 0.12, 0.6), band.below(ground))
        fir = rgb(0.13, 0.30, 0.20)
        paint_conifers(frame, light, fir, 0.10, 9.0, 13.0, ground[1] + 3, draw_seed(rng))
        nearer = ground[1] + 12 + (noise1(frame.x / 40.0, seed + 5) - 0.5) * 10
        band.paint(light.shade(mix(meadow, fir, 0.35), 0.0, 0.4), band.soft(band.y - nearer))
        paint_conifers(frame, light, fir, 0.0, 15.0, 22.0, nearer + 3, draw_seed(rng))


def _lake(frame: Frame, light: Light, shore: float, seed: int) -> None:
    """Still water mirroring what stands above it, with a few bright lines."""
    first = min(int(shore * frame.scale), frame.img.shape[1] - 1)
    water = frame.band((first + 0.5) / frame.scale)
    rows = water.img.shape[1]
    first = frame.img.shape[1] - rows
    wave = ripples(water, seed, 30.0, 2.6)
    source = first - 1 - (np.arange(rows)[:, None] * 1.0 + (wave - 0.5) * 5.0 * frame.scale)
    source = np.clip(np.rint(source), 0, max(first - 1, 0)).astype(np.int64)
    mirrored = frame.img[:, source, np.arange(frame.x.size)[None]]
    tone = light.shade(rgb(0.30, 0.46, 0.58), 0.2, 0.5)
    water.img[:] = mirrored * np.float32(0.68) + tone[:, None, None] * np.float32(0.32)
    line = ripples(water, seed + 1, 24.0, 3.6)
    water.paint(mix(light.low, WHITE, 0.2), smooth((line - 0.70) * 7.0) * np.float32(0.45))
    water.paint(light.haze, smooth(1.0 - (water.y - water.y[0]) / 5.0) * np.float32(0.5))


def dunes(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Sharp-crested sand in four depths, lit on one side of every crest."""
    sand = _vary(rgb(0.96, 0.76, 0.46), rng, 0.05)
    rows = ((0.92, 110.0, 13.0, 3.0), (0.80, 120.0, 16.0, 8.0), (0.55, 160.0, 26.0, 18.0), (0.42, 170.0, 30.0, 30.0),
            (0.24, 220.0, 36.0, 46.0), (0.12, 230.0, 38.0, 60.0), (0.0, 280.0, 40.0, 80.0))  # fmt: skip
    for depth, size, height, drop in rows:
        seed = draw_seed(rng)
        size *= rng.uniform(0.85, 1.2)
        base = horizon + drop
        # A floor keeps the troughs from cutting through to what lies behind.
        floor = base + 1 + (noise1(frame.fine / 50.0, seed + 2) - 0.5) * np.float32(0.25 * height)
        peaks = _peaks(frame.fine, size, base + 4, height * rng.uniform(0.85, 1.1), floor, seed, 0.72)
        line = (peaks.line + (noise1(frame.fine / 34.0, seed + 1) - 0.5) * np.float32(0.10 * height)).astype(np.float32)
        band = frame.band(float(line.min()) - 2)
        owner = peaks.centre[1]
        fall = np.clip(band.y - peaks.apex[1], 0, None)
        swing = 0.10 * size * np.sin(fall / np.float32(0.42 * height) + owner)
        edge = owner + light.side * 0.55 * fall - light.side * swing * smooth(fall / height)
        sunny = band.soft(((band.x - edge) * np.float32(light.side)).astype(np.float32), 1.0)
        sunny = sunny * (1.0 - 0.45 * smooth(fall / np.float32(2.2 * height)))
        sunny = sunny + (0.62 - sunny) * np.maximum(peaks.valley[1], smooth(fall / height - 0.9))
        bright, dark = light.shade(sand, depth, 0.95), light.shade(sand, depth, 0.12)
        colour = dark[:, None, None] + (bright - dark)[:, None, None] * sunny
        if depth < 0.4:  # wind ripples, wide enough to survive an 8x8 compression
            wave = np.sin(
                (band.y * 1.0 + 3.5 * noise1(band.x / 22.0, seed + 3)) * np.float32(0.75 - 0.4 * (0.3 - depth))
            )
            colour *= 1.0 + np.float32(0.05) * wave * smooth(fall / 14.0)
        fog = smooth((band.y - base) / np.float32(1.2 * height)) * np.float32(0.55 * depth)
        band.paint(colour + (light.haze[:, None, None] - colour) * fog, band.below(line))


def _split(water: Frame) -> list[Frame]:
    """A frame cut into three bands at fixed heights, the farthest first."""
    rows = water.y.shape[0]
    cuts = [0, *(min(int(s * water.scale), rows) for s in (16.0, 40.0)), rows]
    return [
        Frame(water.img[:, a:b], water.x, water.fine, water.y[a:b], water.scale)
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        if b > a
    ]


def sea(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Open water to the horizon: bands of waves, glints, the light's path, rarely islands and sails."""
    seed = draw_seed(rng)
    islands, sails = rng.random() < 0.3, rng.random() < 0.4
    if islands:
        line = horizon + 8 - 30 * np.clip(fbm1(frame.fine / 40.0, seed + 9, 2) - 0.48, 0, 1) * 2.2
        band = frame.band(horizon - 30, horizon + 1)
        band.paint(light.shade(rgb(0.34, 0.42, 0.40), 0.75, 0.4), band.below(line.astype(np.float32)))
    local = _vary(
        {"noon": rgb(0.08, 0.44, 0.66), "sunset": rgb(0.62, 0.34, 0.52)}.get(time, rgb(0.16, 0.42, 0.58)), rng
    )
    far = mix(light.low, light.shade(local, 0.5, 0.6), 0.5)
    if time == "sunset":  # the water takes the sky's colours
        far = mix(far, light.mid, 0.45)
    near = mix(light.shade(local, 0.0, 0.35), light.top, 0.25)
    water = frame.band(horizon)
    t = np.clip((water.y - horizon) / (128.0 - horizon), 0, 1)
    edge = water.soft(water.y - np.float32(horizon))
    water.paint(far[:, None, None] + (near - far)[:, None, None] * smooth(t) ** np.float32(0.8), edge)
    crest = mix(light.low, WHITE, 0.35)
    count = 8
    for k in range(1, count + 1):
        s = (k / count) ** 1.7
        y0 = horizon + 2 + s * (128 - horizon) * 0.98
        span, swell = 9.0 + 46.0 * s, 0.8 + 5.0 * s
        line = y0 - swell * (2.0 * np.abs(noise1(frame.fine / np.float32(span), seed + k) - 0.5) ** 0.8 - 0.5)
        band = frame.band(y0 - swell - 3, min(y0 + 7 + 16 * s, 128.0))
        under = band.below(line.astype(np.float32))
        fall = band.y - line[1]
        foam = under * smooth(1.0 - fall / np.float32(1.6 + 2.6 * s))
        band.paint(near * np.float32(0.82), under * smooth(1.0 - fall / np.float32(4.0 + 14.0 * s)) * np.float32(0.5))
        band.paint(crest, foam * (0.25 + 0.5 * noise1(band.x / np.float32(span * 0.6), seed + 40 + k)))
    glint = np.concatenate([ripples(b, seed + 60 + i, 12.0 + 13.0 * i, 3.0) for i, b in enumerate(_split(water))])
    path = np.exp(-(((water.x - light.sun[0]) / (14.0 + 26.0 * t)) ** 2)) * (1.0 - 0.5 * t)
    if light.veil[0] < 0.05:  # only a visible sun or moon lays a path
        water.add(light.glow, (smooth((glint - 0.40) * 5.0) * path * np.float32(0.85) * edge).astype(np.float32))
    water.paint(crest, smooth((glint - 0.74) * 8.0) * np.float32(0.35) * edge)
    if sails:
        paint_sails(frame, light, horizon, seed + 80, rng.uniform(0.85, 1.0))


def forest(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Four rows of trees, firs or leafy ones by seed, the nearest standing tall."""
    leafy = rng.random() < 0.5
    first, second = foliage(season, rng)
    fir = _vary(rgb(0.12, 0.32, 0.22), rng, 0.12)
    colours = (first, second) if leafy else (fir, mix(fir, first, 0.35))
    floor = light.ground(_vary({"autumn": rgb(0.50, 0.33, 0.17)}.get(season, rgb(0.24, 0.36, 0.18)), rng))
    for depth, size, tall, drop in (
        (0.9, 7.0, 18.0, 2.0),
        (0.6, 11.0, 28.0, 14.0),
        (0.3, 17.0, 40.0, 32.0),
        (0.0, 27.0, 58.0, 58.0),
    ):
        seed = draw_seed(rng)
        ground = (horizon + drop + (fbm1(frame.fine / 55.0, seed, 2) - 0.5) * np.float32(10.0)).astype(np.float32)
        band = frame.band(float(ground.min()) - 2)
        band.paint(light.shade(mix(floor, colours[0], 0.35), depth, 0.35), band.below(ground))
        if leafy and season != "winter":
            paint_crowns(frame, light, colours, depth, size * 1.05, size * 0.86, ground[1] + 1, draw_seed(rng))
            paint_crowns(
                frame, light, colours, max(depth - 0.1, 0), size * 1.3, size * 0.74, ground[1] + 4, draw_seed(rng)
            )
        else:
            paint_conifers(frame, light, colours[0], depth, size, tall, ground[1] + 2, draw_seed(rng))
            paint_conifers(
                frame, light, colours[1], max(depth - 0.1, 0), size * 1.5, tall * 0.8, ground[1] + 5, draw_seed(rng)
            )


def city(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Three rows of buildings above a river or a row of park trees."""
    base = horizon + rng.uniform(30, 38)
    walls = tuple(
        _vary(c, rng, 0.1)
        for c in (rgb(0.62, 0.60, 0.64), rgb(0.74, 0.58, 0.50), rgb(0.46, 0.54, 0.66), rgb(0.82, 0.78, 0.70))
    )
    grow = rng.uniform(0.9, 1.1)
    paint_towers(frame, light, walls, 0.92, 13.0, base, 30 * grow, 74 * grow, draw_seed(rng), (0.0, 2.0, 3.0))
    paint_towers(frame, light, walls, 0.52, 19.0, base, 24 * grow, 60 * grow, draw_seed(rng), (0.45, 2.2, 3.0))
    paint_towers(frame, light, walls, 0.10, 27.0, base + 4, 16 * grow, 46 * grow, draw_seed(rng), (0.85, 3.0, 4.0))
    seed = draw_seed(rng)
    if rng.random() < 0.5:
        _lake(frame, light, base + 4, seed)
        return
    street = frame.band(base + 3)
    ground = base + 4 + 0 * frame.x
    street.paint(light.shade(light.ground(rgb(0.36, 0.42, 0.34)), 0.05, 0.4), street.soft(street.y - ground))
    paint_crowns(frame, light, foliage(season, rng), 0.05, 13.0, 5.5, ground + 6, seed)
    street.paint(light.shade(light.ground(rgb(0.50, 0.49, 0.50), 0.6), 0.0, 0.4), street.soft(street.y - (ground + 13)))
    street.paint(light.shade(light.ground(rgb(0.36, 0.36, 0.40), 0.4), 0.0, 0.3), street.soft(street.y - (ground + 17)))
    if light.lamps > 0.3:
        for slot in slots(street.x, 34.0, seed + 5, 0.0, 0):
            d = np.hypot(street.x - slot.centre, street.y - (ground + 12)).astype(np.float32)
            street.add(LAMP, np.exp(-d / 4.0).astype(np.float32))


def hills(frame: Frame, light: Light, season: str, time: str, horizon: float, rng: np.random.Generator) -> None:
    """Low rolling meadows and fields with scattered round trees and houses."""
    greens = {
        "spring": (rgb(0.56, 0.78, 0.34), rgb(0.76, 0.84, 0.36)),
        "summer": (rgb(0.44, 0.68, 0.26), rgb(0.90, 0.80, 0.36)),
        "autumn": (rgb(0.72, 0.62, 0.28), rgb(0.80, 0.50, 0.24)),
        "winter": (rgb(0.52, 0.56, 0.38), rgb(0.62, 0.56, 0.44)),
    }[season]
    leaves = foliage(season, rng)
    layers = (
        (0.9, 70.0, 12.0, 0.0),
        (0.62, 90.0, 15.0, 11.0),
        (0.38, 120.0, 18.0, 25.0),
        (0.16, 150.0, 20.0, 43.0),
        (0.0, 190.0, 20.0, 64.0),
    )
    for k, (depth, size, height, drop) in enumerate(layers):
        seed = draw_seed(rng)
        size *= rng.uniform(0.85, 1.15)
        line = horizon + drop + 4 - height * (fbm1(frame.fine / np.float32(size * 0.6), seed, 2) - 0.35)
        line = line.astype(np.float32)
        band = frame.band(float(line.min()) - 2)
        meadow, field = (light.ground(_vary(c, rng), share) for c, share in zip(greens, (1.1, 0.85), strict=True))
        fall = band.y - line[1]
        # Fields: patches between slanted borders, striped along the slope.
        patch = noise2(band.x / np.float32(size * 0.42), (band.y[:, 0]) / np.float32(height * 1.5), seed + 1)
        patch = band.soft((patch - 0.52).astype(np.float32) * np.float32(14.0))
        lit, low = light.shade(meadow, depth, 0.9), light.shade(meadow, depth, 0.3)
        slope = smooth(0.5 - 14.0 * light.side * (line[3] - line[0]) * np.float32(1.6 * frame.scale / height))
        tone = slope * (1.0 - 0.6 * smooth(fall / np.float32(1.9 * height)))
        colour = low[:, None, None] + (lit - low)[:, None, None] * tone
        crop = light.shade(field, depth, 0.9)[:, None, None] * (0.78 + 0.22 * tone)
        rows = np.sin((fall + 0.25 * band.x) * np.float32(1.35 - 0.5 * (1 - depth)))
        crop = crop * (1.0 + np.float32(0.07 * (1 - depth)) * rows)
        colour += (crop - colour) * (patch * np.float32(0.85))
        fog = smooth(fall / np.float32(1.4 * height)) * np.float32(0.36 * depth)
        band.paint(colour + (light.haze[:, None, None] - colour) * fog, band.below(line))
        if k in (1, 2, 3):
            radius = (0.0, 2.4, 3.4, 5.0)[k]
            paint_crowns(frame, light, leaves, depth, radius * 4.2, radius, line[1] + 1.5, draw_seed(rng), 0.5)
            if k > 1:
                paint_houses(frame, light, depth, line[1] + 0.35 * height, 58.0, 2.4 + k, draw_seed(rng))
        if k == 4:
            paint_crowns(frame, light, leaves, 0.0, 46.0, 9.0, line[1] + 6, draw_seed(rng), 0.45)


# Painter and the range of its horizon in units.
PAINTERS: dict[str, tuple[Painter, tuple[float, float]]] = {
    "mountains": (mountains, (58.0, 72.0)),
    "dunes": (dunes, (46.0, 60.0)),
    "sea": (sea, (48.0, 68.0)),
    "forest": (forest, (50.0, 62.0)),
    "city": (city, (62.0, 74.0)),
    "hills": (hills, (50.0, 64.0)),
}
