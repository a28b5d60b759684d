"""Each task on a handful of families that are probed, tiny: it gives a picture, or says in a sentence why not."""

import functools

import numpy as np
import pytest
import torch
from families import FAMILIES
from shapes import cube

import fastsync as fs

SETTINGS = {"num_inference_steps": 2, "seed": 0, "progress": False}
VIEWS = [("identity", "a cat"), ("rotate_180", "a dog")]
AROUND = [(0.0, 0.0), (120.0, 0.0), (240.0, 20.0)]
METHODS = ("multidiffusion", "synctweedies", "syncvc")
# What each call takes beside prompt, size and guidance, to be short.
MORE = {
    "sdxl": {},
    "sd3": {"max_sequence_length": 12},
    "flux": {"max_sequence_length": 12},
    "sana": {"complex_human_instruction": None, "max_sequence_length": 16},
    "qwen-image": {"max_sequence_length": 12, "true_cfg_scale": 3.0},
    "sdxl-controlnet": {},
    "if": {"clean_caption": False},  # without an argument more it has an adapter
}


@functools.cache
def sync(name):
    return fs.SyncPipeline(FAMILIES[name].make())


def asked(name, side):
    """Options of every task on a family."""
    found = {**SETTINGS, "window": (side, side), "pipe_kwargs": MORE[name], "output_type": "np"}
    return found if name in ("flux", "sana") else {**found, "negative_prompt": "grey"}


def control(height, width):
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))


def work(name, task, method):
    """The task's result at a size that its windows make."""
    side = 32 if name == "sana" else 16
    options = {**asked(name, side), "method": method}
    shown = {"control_image": control(side, 2 * side)} if name == "sdxl-controlnet" else {}
    if task == "wide":
        return sync(name).wide("a cat", height=side, width=2 * side, overlap=side // 2, **shown, **options)
    if task == "panorama":
        return sync(name).panorama("a cat", **shown, **options)
    if task == "illusion":
        shown = {"control_image": control(side, side)} if shown else {}
        return sync(name).illusion(VIEWS, **shown, **options)
    if task == "compose":
        mask = np.zeros((side, side), np.uint8)
        mask[: side // 2] = 255
        shown = {"control_image": control(side, side)} if shown else {}
        return sync(name).compose([mask], ["a cat"], **shown, **options)
    options.pop("output_type")
    return sync(name).texture(cube(), "a cat", cameras=AROUND, texture_size=32, **options)


# What a task cannot do, in words of its sentence; all else gives a picture.
CANNOT = {
    **{("panorama", "multidiffusion", name): "MultiDiffusion" for name in MORE},
    **{("texture", "multidiffusion", name): "MultiDiffusion" for name in MORE},
    **{
        ("texture", method, name): "texture() needs a model that"
        for method in METHODS
        for name in MORE
        if name != "sdxl-controlnet"
    },
}


@pytest.mark.parametrize("task", ["wide", "panorama", "illusion", "compose", "texture"])
@pytest.mark.parametrize("name", MORE)
def test_every_task(name, task, outcome):
    for method in METHODS:
        words = CANNOT.get((task, method, name))
        if words is not None:
            with pytest.raises(ValueError) as caught:
                work(name, task, method)
            message = str(caught.value)
            assert words in message and "\n" not in message and len(message) < 320, message
            outcome(name, task=task, method=method, sentence=message)
            continue
        out = work(name, task, method)
        pictures = np.asarray(out.images[0] if task == "texture" else out.images)
        assert np.isfinite(pictures).all() and pictures.std() > 0.01
        assert out.stats.evaluations > 0 and out.parameters["task"] == task and out.parameters["prior"] == "probe"
        outcome(name, task=task, method=method)
