"""Captions of scenes: a small grammar with the words that users type."""

from __future__ import annotations

import numpy as np

from fastsync.zoo.scenes.scene import Scene

# Noun phrases; an indefinite article is written "a" and mended when the next word starts with a vowel.
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "mountains": (
        "mountains",
        "the mountains",
        "the alps",
        "alps",
        "peaks",
        "a mountain range",
        "mountain peaks",
        "ridges",
        "mountain ridges",
    ),
    "dunes": ("dunes", "the dunes", "a desert", "the desert", "desert", "sand dunes", "desert dunes"),
    "sea": ("the sea", "sea", "the ocean", "ocean", "a seascape", "waves", "ocean waves"),
    "forest": ("a forest", "the forest", "forest", "the woods", "woods", "trees", "a woodland", "woodland"),
    "city": (
        "a city",
        "the city",
        "city",
        "a skyline",
        "a cityscape",
        "a city skyline",
        "skyline",
        "a town",
        "town",
        "buildings",
        "city buildings",
    ),
    "hills": (
        "hills",
        "the hills",
        "meadows",
        "green meadows",
        "the countryside",
        "countryside",
        "rolling hills",
        "a hilly countryside",
    ),
}
# For every time: adjectives, phrases that follow a noun, and nouns that may stand "over" a place.
TIME_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "dawn": (
        ("dawn", "sunrise", "early morning", "morning"),
        ("at dawn", "at sunrise", "in the early morning", "at daybreak", "at dawn", "at sunrise", "in the morning"),
        ("dawn", "sunrise", "daybreak", "early morning"),
    ),
    "noon": (
        ("midday", "daylight", "afternoon", "daytime"),
        ("at noon", "at midday", "by day", "in daylight", "in the afternoon", "at noon", "during the day"),
        ("noon", "midday", "daylight"),
    ),
    "sunset": (
        ("sunset", "evening", "dusk"),
        ("at sunset", "at dusk", "in the evening", "at golden hour", "at sunset", "at dusk"),
        ("sunset", "dusk", "golden hour", "evening"),
    ),
    "night": (
        ("night", "midnight", "moonlit", "nighttime"),
        ("at night", "at midnight", "in moonlight", "by moonlight", "at nighttime", "at night", "in the moonlight"),
        ("night", "moonlight", "midnight"),
    ),
}
WEATHER_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "clear": (("clear",), ("under a clear sky", "in clear weather", "with a clear sky")),
    "cloudy": (("cloudy", "overcast"), ("under a cloudy sky", "with clouds", "under clouds", "under an overcast sky")),
    "rain": (("rainy", "rainy"), ("in the rain", "in rain", "with rain")),
    "snow": (("snowy", "snowy"), ("in the snow", "in snowfall", "with falling snow", "in snow")),
    "fog": (("foggy", "misty", "hazy"), ("in fog", "in the fog", "in mist", "in the mist", "in haze")),
}
_SUNNY = (
    ("sunny", "clear", "bright sunny"),
    ("under a clear sky", "in sunny weather", "in sunshine", "with a clear sky"),
)
_STARRY = (("clear", "starry"), ("under a starry sky", "under stars", "under a clear sky", "with stars"))
SEASON_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "spring": (("spring",), ("in spring", "in springtime")),
    "summer": (("summer",), ("in summer", "in the summer")),
    "autumn": (("autumn", "fall"), ("in autumn", "in fall", "in the autumn")),
    "winter": (("winter", "wintry"), ("in winter", "in the winter")),
}
SEASONLESS = ("dunes", "sea")  # their season does not show, so it is never named
_FRAMES = (
    "{}", "{}", "{}", "{}", "a photo of {}", "a photo of {}", "a photo of {}", "a wide view of {}", "a view of {}",
    "a panorama of {}", "panorama of {}", "a wide photo of {}", "a landscape with {}", "a picture of {}", "photo of {}",
)  # fmt: skip


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _join(noun: str, adjectives: list[str]) -> str:
    """Adjectives between a noun phrase's article and its noun."""
    words = noun.split()
    article = [words.pop(0)] if words[0] in ("a", "the") else []
    phrase = " ".join(adjectives + words)
    if article == ["a"] and phrase[0] in "aeiou":
        article = ["an"]
    return " ".join([*article, phrase])


def _weather_words(weather: str, time: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if weather == "clear" and time == "night":
        return _STARRY
    if weather == "clear" and time == "noon":
        return _SUNNY
    return WEATHER_WORDS[weather]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A short lower-case English caption without punctuation.

    The place is always named; time in about 70 %, weather in 50 %, season in 30 % of the captions, so that a prior
    learns what a prompt leaves open. The same rng state gives the same caption.
    """
    noun = _pick(PLACE_WORDS[scene.place], rng)
    bare = rng.random() < 0.06
    has_time, has_weather, has_season = rng.random(3) < (0.74, 0.53, 0.32)
    has_season = has_season and scene.place not in SEASONLESS
    before: list[str] = []
    after: list[str] = []
    over = ""
    if not bare:
        if has_season:
            adjective, phrase = SEASON_WORDS[scene.season]
            if rng.random() < 0.5:
                before.append(_pick(adjective, rng))
            else:
                after.append(_pick(phrase, rng))
        if has_time:
            adjective, phrase, nouns = TIME_WORDS[scene.time]
            style = rng.random()
            if style < 0.14 and not after:
                over = _pick(nouns, rng) + " over "
                if scene.time == "night" and scene.weather == "clear" and rng.random() < 0.5:
                    over = "a starry night over "
            elif style < 0.32 and not before:
                before.append(_pick(adjective, rng))
            elif style < 0.40:  # as people type it: "mountains sunset"
                after.insert(0, _pick(nouns, rng))
            else:
                after.insert(0, _pick(phrase, rng))
        if has_weather:
            adjective, phrase = _weather_words(scene.weather, scene.time)
            if rng.random() < 0.6:
                before.insert(0, _pick(adjective, rng))
            else:
                after.append(_pick(phrase, rng))
    text = " ".join([over + _join(noun, before), *after])
    frame = _pick(_FRAMES, rng)
    return frame.format(text)


def vocabulary() -> list[str]:
    """Every lower-case word that `caption` can emit, sorted."""
    phrases = [*_FRAMES, "a an over starry night"]
    phrases += [p for words in PLACE_WORDS.values() for p in words]
    for groups in (*TIME_WORDS.values(), *WEATHER_WORDS.values(), _SUNNY, _STARRY, *SEASON_WORDS.values()):
        phrases += [p for words in groups for p in words]
    return sorted({w for p in phrases for w in p.replace("{}", " ").split()})
