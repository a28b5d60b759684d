"""The examples: the block in modular pipelines, alone and behind a text encoder, and the scripts, run as they stand."""

import runpy
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from diffusers import (
    ClassifierFreeGuidance,
    ModularPipelineBlocks,
    PerturbedAttentionGuidance,
    SequentialPipelineBlocks,
)
from exact_priors import relative
from families import FAMILIES
from PIL import Image

import fastsync as fs

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULAR = str(EXAMPLES / "modular")
# Three windows of 16 x 16 pixels.
WIDE = {"height": 16, "width": 40, "window": (16, 16), "num_inference_steps": 2, "output_type": "np", "progress": False}
BLOCKS = {"sdxl": "StableDiffusionXLAutoBlocks", "flux": "FluxAutoBlocks"}
pytestmark = pytest.mark.filterwarnings("error:Unexpected input", "error:Accessing config attribute")


@pytest.fixture(scope="module", params=BLOCKS)
def family(request):
    """A family's name, its tiny pipeline, and the block for it, loaded as from the hub."""
    pipe = FAMILIES[request.param].make()
    kind = type(pipe).__name__
    return (
        request.param,
        pipe,
        ModularPipelineBlocks.from_pretrained(MODULAR, trust_remote_code=True, pipeline_class=kind),
    )


def made_of(blocks, pipe):
    """A modular pipeline of blocks, with the components of a plain one."""
    modular = blocks.init_pipeline()
    modular.update_components(**{n: part for n, part in pipe.components.items() if n in modular.components and part})
    return modular


def behind_encoder(name, block, pipe):
    encode = getattr(diffusers, BLOCKS[name])().sub_blocks["text_encoder"]
    return made_of(SequentialPipelineBlocks.from_blocks_dict({"text_encoder": encode, "wide": block}), pipe)


def picture(modular, prompt, **arguments):
    generator = torch.Generator().manual_seed(3)
    return modular(prompt=prompt, generator=generator, output="images", **{**WIDE, **arguments})


def plain(pipe, prompt, **arguments):
    return fs.SyncPipeline(pipe).wide(prompt, seed=3, **{**WIDE, **arguments}).images


def same(ours, theirs):
    """Equal up to rounding, by which two runs of the task itself differ too (2e-7 on the tiny FLUX)."""
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("method", ["syncvc", "multidiffusion"])
def test_the_block_alone_is_the_task(family, method):
    name, pipe, block = family
    modular = made_of(block, pipe)
    assert type(modular).__name__ == BLOCKS[name].replace("AutoBlocks", "ModularPipeline")
    arguments = {"method": method, "loop": True, "overlap": 6, "guidance_scale": 2.0}
    if name == "sdxl":  # FLUX takes a negative prompt where it is guided by true CFG alone
        arguments["negative_prompt"] = "grey"
    ours = picture(modular, "a cat", **arguments)
    assert ours.shape == (1, 16, 40, 3) and same(ours, plain(pipe, "a cat", **arguments))
    prompts = ["a cat", "dog", "red"]
    assert same(picture(modular, prompts, method=method), plain(pipe, prompts, method=method))


def test_defaults_are_the_tasks(family):
    _, pipe, block = family
    modular = made_of(block, pipe)
    size = {"window": (16, 16), "num_inference_steps": 2, "progress": False}
    state = modular(prompt="a cat", generator=torch.Generator().manual_seed(3), **size)
    out = fs.SyncPipeline(pipe).wide("a cat", seed=3, **size)
    (ours,), (theirs,) = state.get("images"), out.images
    assert ours.size == (64, 16) and np.abs(np.int16(ours) - np.int16(theirs)).max() <= 1
    assert relative(state.get("latents"), out.latents) < 1e-5
    assert {**state.get("parameters"), "seed": 3, "model": ""} == {**out.parameters, "model": ""}


def test_embeddings_come_from_the_block_before(family):
    name, pipe, block = family
    modular = behind_encoder(name, block, pipe)
    scale = {"guidance_scale": 7.5} if name == "sdxl" else {}  # the guider's, which is not the plain pipeline's
    assert same(picture(modular, "a cat"), plain(pipe, "a cat", **scale))
    prompts = ["a cat", "dog", "red"]  # one a window
    ours, theirs = picture(modular, prompts), plain(pipe, prompts, **scale)
    assert same(ours, theirs)
    with pytest.raises(ValueError, match="must have one value a window, got 2"):
        picture(modular, prompts[:2])


def test_text_encoders_may_be_unloaded_once_they_have_encoded(family):
    name, pipe, block = family
    encode = getattr(diffusers, BLOCKS[name])().sub_blocks["text_encoder"]
    encoded = made_of(encode, pipe)(prompt="a cat").get_by_kwargs("denoiser_input_fields")
    modular = made_of(block, pipe)
    modular.update_components(text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None)
    scale = {"guidance_scale": 4.0}
    ours = picture(modular, None, denoiser_input_fields=encoded, **scale)
    assert same(ours, plain(pipe, "a cat", **scale))


def test_what_is_not_loaded_is_named(family):
    _, pipe, block = family
    modular = made_of(block, pipe)
    modular.update_components(vae=None, scheduler=None)
    with pytest.raises(ValueError, match="is without its .*(vae, scheduler|scheduler, vae): call load_components"):
        picture(modular, "a cat")


def test_a_folder_of_a_model_is_loaded(family, tmp_path):
    _, pipe, block = family
    pipe.save_pretrained(tmp_path)
    modular = block.init_pipeline(str(tmp_path))
    modular.load_components()
    assert same(picture(modular, "a cat"), plain(pipe, "a cat"))


@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_other_families_have_the_same_block(name):
    pipe = FAMILIES[name].make()
    block = ModularPipelineBlocks.from_pretrained(MODULAR, True, pipeline_class=type(pipe).__name__)
    size = FAMILIES[name].call()
    arguments = {"window": (size["height"], size["width"]), "height": size["height"], "width": 2 * size["width"]}
    arguments["pipe_kwargs"] = {"max_sequence_length": 12}
    ours = picture(made_of(block, pipe), "a cat", **arguments)
    assert same(ours, plain(pipe, "a cat", **arguments))


@pytest.mark.parametrize(
    ("guider", "guidance"),
    [
        (ClassifierFreeGuidance(3.0), 3.0),
        (ClassifierFreeGuidance(3.0, guidance_rescale=0.7, start=0.5), fs.Guidance(3.0, 0.7, (0.5, 1.0))),
        (ClassifierFreeGuidance(2.0, use_original_formulation=True), 3.0),
        (ClassifierFreeGuidance(3.0, enabled=False), 1.0),
    ],
)
def test_a_guider_is_followed(guider, guidance):
    pipe = FAMILIES["sdxl"].make()
    modular = behind_encoder("sdxl", ModularPipelineBlocks.from_pretrained(MODULAR, True), pipe)
    modular.update_components(guider=guider)
    ours = picture(modular, "a cat", method="synctweedies")
    assert same(ours, plain(pipe, "a cat", method="synctweedies", guidance_scale=guidance))


def test_other_guiders_are_refused():
    pipe = FAMILIES["sdxl"].make()
    modular = behind_encoder("sdxl", ModularPipelineBlocks.from_pretrained(MODULAR, True), pipe)
    modular.update_components(guider=PerturbedAttentionGuidance(perturbed_guidance_layers=[0]))
    with pytest.raises(ValueError, match="the guider is a PerturbedAttentionGuidance, and fastsync guides as Classif"):
        picture(modular, "a cat")
    with pytest.raises(
        ValueError, match="pipeline_class must be the name of a pipeline of diffusers, got 'UNet2DModel'"
    ):
        ModularPipelineBlocks.from_pretrained(MODULAR, True, pipeline_class="UNet2DModel")


def run(script, pipe, folder, monkeypatch):
    """Run a script on a pipeline, in a folder of its own."""
    pipe.save_pretrained(folder / "model")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script, "model"])
    return runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_windows_of_their_own(tmp_path, monkeypatch, capsys):
    left = run("windows_of_their_own.py", tiny.make_pipeline(), tmp_path, monkeypatch)
    out = left["out"]
    assert Image.open("day.png").size == out.images[0].size
    assert len(out.views) == left["WINDOWS"] and "view-evaluations" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_loop_of_your_own(name, tmp_path, monkeypatch, capsys):
    pipe = tiny.make_pipeline() if name == "sd" else FAMILIES[name].make()
    left = run("loop_of_your_own.py", pipe, tmp_path, monkeypatch)
    height, width = left["prior"].window_pixels
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["around.png", *(f"around_step_{step:02}.png" for step in (5, 10, 15, 20))]
    assert {Image.open(name).size for name in pictures} == {(3 * width, height)}
    assert "window" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_short_and_need_no_arguments(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60 and 'zoo.path("scenes")' in text
