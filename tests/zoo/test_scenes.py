"""The procedural scenes: same seed same picture, wider pictures extend narrower ones, captions tell the truth."""

import itertools

import numpy as np
import pytest

from fastsync.zoo.scenes import (
    PLACES,
    SEASONS,
    TIMES,
    WEATHERS,
    Scene,
    caption,
    label,
    render,
    sample_scene,
    vocabulary,
)

# Words that name one value alone; a caption of another value must not hold them.
PLACE_NOUNS = {
    "mountains": {"mountain", "mountains", "alps", "peaks", "ridges"},
    "dunes": {"dunes", "desert"},
    "sea": {"sea", "ocean", "seascape", "waves"},
    "forest": {"forest", "woods", "trees", "woodland"},
    "city": {"city", "skyline", "town", "buildings", "cityscape"},
    "hills": {"hills", "meadows", "countryside"},
}
TIME_NOUNS = {
    "dawn": {"dawn", "sunrise", "daybreak", "morning"},
    "noon": {"noon", "midday", "day", "daylight", "daytime", "afternoon", "sunny", "sunshine"},
    "sunset": {"sunset", "dusk", "evening", "golden"},
    "night": {"night", "midnight", "moonlight", "moonlit", "nighttime", "starry", "stars"},
}
WEATHER_NOUNS = {
    "clear": {"clear", "sunny", "sunshine", "starry", "stars"},
    "cloudy": {"cloudy", "overcast", "clouds"},
    "rain": {"rain", "rainy"},
    "snow": {"snow", "snowy", "snowfall"},
    "fog": {"fog", "foggy", "mist", "misty", "haze", "hazy"},
}
SEASON_NOUNS = {
    "spring": {"spring", "springtime"},
    "summer": {"summer"},
    "autumn": {"autumn", "fall"},
    "winter": {"winter", "wintry"},
}


@pytest.mark.parametrize("place", PLACES)
def test_every_combination_renders(place):
    for k, (time, weather) in enumerate(itertools.product(TIMES, WEATHERS)):
        # NumPy turns NaN into an arbitrary byte silently, so every warning must be an error here.
        with np.errstate(all="raise", under="ignore"):
            picture = render(Scene(place, time, weather, SEASONS[k % 4], k), width=96)
        assert picture.shape == (128, 96, 3) and picture.dtype == np.uint8
        assert picture.astype(float).mean((0, 2)).std() < 60 and picture.std() > 4


@pytest.mark.parametrize("place", PLACES)
def test_the_same_scene_gives_the_same_picture_and_another_seed_another(place):
    scene = Scene(place, "noon", "cloudy", "summer", 7)
    assert np.array_equal(render(scene, 160), render(scene, 160))
    assert not np.array_equal(render(scene, 160), render(Scene(place, "noon", "cloudy", "summer", 8), 160))


@pytest.mark.parametrize("seed", range(12))
def test_a_wider_picture_begins_with_the_narrower(seed):
    scene = sample_scene(np.random.default_rng(seed))
    wide = render(scene, 1024)
    for width in (1, 100, 512):
        assert np.array_equal(wide[:, :width], render(scene, width)), (scene, width)


@pytest.mark.parametrize("place", PLACES)
def test_wide_pictures_do_not_repeat(place):
    picture = render(Scene(place, "noon", "clear", "summer", 3), 2048).astype(np.float32)
    windows = picture.reshape(128, 16, 128, 3).transpose(1, 0, 2, 3).reshape(16, -1)
    distance = np.abs(windows[:, None] - windows[None]).mean(-1) + 1e3 * np.eye(16)
    assert distance.min() > 1.5


@pytest.mark.parametrize("height", [1, 40, 256])
def test_other_heights(height):
    for k, place in enumerate(PLACES):
        assert render(Scene(place, "sunset", "clear", "autumn", k), 70, height).shape == (height, 70, 3)


def test_times_differ_in_brightness_and_warmth():
    """Mean colours over many scenes: night is darkest, sunset warmest, noon the bluest of the bright ones."""
    mean = {
        time: np.mean(
            [render(Scene(p, time, "clear", "summer", s), 128).mean((0, 1)) for p in PLACES for s in (0, 1)], 0
        )
        for time in TIMES
    }
    assert mean["night"].sum() < 0.6 * min(mean[t].sum() for t in ("dawn", "noon", "sunset"))
    assert mean["sunset"][0] > 1.8 * mean["sunset"][2]
    assert mean["noon"][2] > mean["noon"][0] and mean["dawn"][0] > mean["dawn"][1]


def test_sampled_scenes_are_balanced_and_sensible():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(3000)]
    for index, (names, low, high) in enumerate(((PLACES, 0.14, 0.20), (TIMES, 0.22, 0.28), (WEATHERS, 0.10, 0.33))):
        share = np.bincount([label(s)[index] for s in scenes], minlength=len(names)) / len(scenes)
        assert share.min() > low and share.max() < high
    assert not any(s.weather == "snow" and (s.place == "dunes" or s.season == "summer") for s in scenes)


def test_labels_index_the_names():
    assert label(Scene("city", "night", "fog", "winter", 0)) == (4, 3, 4)


def test_captions_are_true_and_in_the_vocabulary():
    rng = np.random.default_rng(1)
    words = set(vocabulary())
    assert sorted(words) == vocabulary() and all(w == w.lower() and w.isalpha() for w in words)
    for _ in range(4000):
        scene = sample_scene(rng)
        said = set(caption(scene, rng).split())
        assert said <= words
        assert said & PLACE_NOUNS[scene.place]
        for value, nouns in (
            (scene.place, PLACE_NOUNS),
            (scene.time, TIME_NOUNS),
            (scene.weather, WEATHER_NOUNS),
            (scene.season, SEASON_NOUNS),
        ):
            wrong = set().union(*(w for name, w in nouns.items() if name != value))
            assert not said & wrong, (scene, said)
        assert scene.place not in ("dunes", "sea") or not said & set().union(*SEASON_NOUNS.values())


def test_captions_leave_things_open_as_often_as_promised():
    rng = np.random.default_rng(2)
    said = [(s, set(caption(s, rng).split())) for s in (sample_scene(rng) for _ in range(4000))]

    def share(nouns: dict[str, set[str]]) -> float:
        every = set().union(*nouns.values())
        return float(np.mean([bool(words & every) for _, words in said]))

    assert 0.64 < share(TIME_NOUNS) < 0.78
    assert 0.44 < share(WEATHER_NOUNS) < 0.56
    assert 0.15 < share(SEASON_NOUNS) < 0.36
    look = set().union(*TIME_NOUNS.values(), *WEATHER_NOUNS.values(), *SEASON_NOUNS.values())
    assert 0.10 < np.mean([not words & look for _, words in said]) < 0.22


def test_users_words_are_known():
    text = """mountains alps peaks mountain range ridges dunes desert sand sea ocean seascape waves forest woods trees
    woodland city skyline town buildings hills meadows countryside rolling dawn sunrise early morning daybreak noon
    midday day daylight afternoon sunset dusk evening golden hour night midnight moonlight nighttime starry clear
    sunny cloudy overcast rain rainy snow snowy snowfall fog foggy misty mist haze spring summer autumn winter
    a photo of at over the wide view panorama"""
    assert set(text.split()) <= set(vocabulary())


@pytest.mark.parametrize(
    ("field", "value"), [("place", "moon"), ("time", "Dawn"), ("weather", "hail"), ("season", ""), ("seed", -1)]
)
def test_unknown_attributes_are_refused_in_one_sentence(field, value):
    values = {"place": "sea", "time": "noon", "weather": "clear", "season": "summer", "seed": 0, field: value}
    with pytest.raises(ValueError, match=rf"scene's {field} must be .*got"):
        Scene(**values)


@pytest.mark.parametrize("size", [(0, 128), (64, 0), (-5, 128)])
def test_empty_pictures_are_refused(size):
    with pytest.raises(ValueError, match="must be at least 1, got"):
        render(Scene("sea", "noon", "clear", "summer", 0), *size)


def test_fractional_sizes_are_refused():
    with pytest.raises(TypeError, match="width must be a whole number"):
        render(Scene("sea", "noon", "clear", "summer", 0), 64.5)
