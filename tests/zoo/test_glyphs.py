"""Letters and digits: the generator, the captions, the training stages at a tiny size, and the shipped prior."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import fastsync as fs
from fastsync import zoo
from fastsync.zoo import evaluate, glyphs, pixel_models
from fastsync.zoo.classifier import GlyphClassifier
from fastsync.zoo.glyphs.strokes import skeletons
from fastsync.zoo.train import GLYPH_STAGES, Stage, train_glyphs
from fastsync.zoo.training import glyphs as training
from fastsync.zoo.training.run import Run

shipped = pytest.mark.skipif("glyphs" not in zoo.names(), reason="the weights of `glyphs` are not there yet")


def sampled(count, seed=0):
    rng = np.random.default_rng(seed)
    return [glyphs.sample_glyph(rng) for _ in range(count)]


# ---- the generator ------------------------------------------------------------------------------------------------


def test_every_character_has_forms_in_the_unit_square():
    assert set(skeletons()) == set(glyphs.CHARACTERS) and len(glyphs.CHARACTERS) == 36
    for forms in skeletons().values():
        for stroke in (stroke for form in forms for stroke in form):
            assert stroke.ndim == 2 and stroke.shape[1] == 2 and len(stroke) >= 2
            assert stroke.min() > -0.1 and stroke.max() < 1.15


def test_a_glyph_is_its_picture():
    for glyph in sampled(20):
        picture = glyphs.render(glyph)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        assert np.array_equal(picture, glyphs.render(glyph))
        other = glyphs.render(replace(glyph, seed=glyph.seed + 1))
        assert not np.array_equal(picture, other)


def test_ink_stands_out_and_stays_on_the_paper():
    """The border is paper, some cells are ink, and both have about the colours of their names."""
    for glyph in sampled(60, seed=1):
        picture = glyphs.render(glyph).astype(float)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert np.abs(border.mean(0) - glyphs.PAPERS[glyph.paper]).max() < 25
        difference = np.abs(picture - border.mean(0)).max(-1)
        assert 0.02 < (difference > 40).mean() < 0.5
        inked = picture[difference > 0.9 * difference.max()].mean(0)
        assert np.abs(inked - glyphs.INKS[glyph.ink]).max() < 60


def test_another_size_shows_the_same_glyph():
    for glyph in sampled(10, seed=2):
        large = glyphs.render(glyph, 128).astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(large - glyphs.render(glyph)).mean() < 8


def test_captions_name_the_character_and_only_what_is_there():
    rng = np.random.default_rng(0)
    vocabulary = set(glyphs.vocabulary())
    named = 0
    for glyph in sampled(400, seed=3):
        words = glyphs.caption(glyph, rng).split()
        assert set(words) <= vocabulary
        low = glyph.character.lower()
        numbers = "zero one two three four five six seven eight nine".split()
        assert low in words or (glyph.character.isdigit() and numbers[int(low)] in words)
        named += glyph.ink in words
    assert 60 < named < 240


def test_the_tokenizer_knows_every_word_and_any_text():
    tokenizer = pixel_models.make_tokenizer(glyphs.vocabulary())
    for word in glyphs.vocabulary():
        assert tokenizer.tokenize(word) == [f"▁{word}"]
    assert tokenizer.unk_token_id not in tokenizer("zebra, quickly!").input_ids
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]


# ---- training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs")
    run = Run(folder / "work", steps=2, batch=4, progress=False)
    training.paint(run, 12, size=16, workers=1)
    training.train_classifier(run)
    training.train_denoiser(run, pixel_models.TINY)
    training.export(run, folder / "weights", pixel_models.TINY)
    return run, folder / "weights"


def test_the_export_loads_and_generates(trained):
    _, weights = trained
    pipeline = DiffusionPipeline.from_pretrained(weights / "glyphs")
    assert type(pipeline).__name__ == "IFPipeline" and pipeline.safety_checker is None
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("the digit 6", num_inference_steps=2, output_type="np", clean_caption=False).images
    assert images.shape == (1, 16, 16, 3) and np.isfinite(images).all()
    assert not pipeline.unet.conv_out.weight[3:].any() and pipeline.unet.conv_out.weight[:3].any()
    assert {p.name for p in weights.iterdir()} == {"glyphs", "glyphs-classifier"}
    assert GlyphClassifier.load(weights / "glyphs-classifier").classify(torch.rand(2, 3, 64, 64))[
        "character"
    ].shape == (2,)
    sync = fs.SyncPipeline(pipeline)
    assert sync.illusion([("identity", "6"), ("flip", "9")], num_inference_steps=2, progress=False).images[0].size == (
        16,
        16,
    )


def test_stages_that_ended_are_not_run_again(trained):
    run, weights = trained
    before = {p.name: p.stat().st_mtime_ns for p in run.work.glob("glyphs.*")}
    train_glyphs(run, Stage.data, 12)
    assert before == {p.name: p.stat().st_mtime_ns for p in run.work.glob("glyphs.*")}
    assert set(GLYPH_STAGES) == {Stage.data, Stage.classifier, Stage.unet, Stage.export}
    assert weights.is_dir()


def test_the_export_can_be_trained_further(trained, tmp_path):
    run, weights = trained
    other = replace(run, work=tmp_path, steps=1)
    for name in ("glyphs.npy", "glyphs.json"):
        (tmp_path / name).symlink_to(run.work / name)
    training.adopt(other, weights)
    start = torch.load(tmp_path / "unet.pt", weights_only=True)["modules"]["unet"]
    shipped = torch.load(run.work / "unet.pt", weights_only=True)["average"]["unet"]
    torch.testing.assert_close(start["conv_in.weight"], shipped["conv_in.weight"], atol=1e-3, rtol=1e-3)
    training.train_denoiser(other, pixel_models.TINY)
    assert torch.load(tmp_path / "unet.pt", weights_only=True)["step"] == 1
    with pytest.raises(FileExistsError, match="is there already"):
        training.adopt(other, weights)


def test_nothing_to_export_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to export"):
        training.export(Run(tmp_path, progress=False), tmp_path / "weights")


def test_held_out_glyphs_are_of_all_characters_and_of_other_seeds():
    pixels, drawn = training.held_out_glyphs(36, 0)
    assert pixels.shape == (36, 64, 64, 3)
    assert [glyph.character for glyph in drawn] == list(glyphs.CHARACTERS)
    assert min(glyph.seed for glyph in drawn) >= training.HELD_OUT > max(glyph.seed for glyph in sampled(50))


# ---- the shipped prior --------------------------------------------------------------------------------------------


@shipped
def test_the_shipped_prior_is_small_and_in_diffusers_format():
    folder = Path(zoo.path("glyphs"))
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 24_000_000
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "IFPipeline"
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert {pipeline.unet.dtype, pipeline.text_encoder.dtype} == {torch.float32}


@shipped
def test_the_shipped_classifier_reads_real_glyphs():
    pixels, drawn = training.held_out_glyphs(144, 5)
    found = GlyphClassifier.load().classify(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)["character"]
    truth = torch.tensor([glyphs.CHARACTERS.index(glyph.character) for glyph in drawn])
    assert float((found == truth).float().mean()) >= 0.96


@shipped
def test_the_shipped_prior_writes_what_prompts_name():
    pipeline = DiffusionPipeline.from_pretrained(zoo.path("glyphs"))
    report, images = evaluate.evaluate(
        pipeline, GlyphClassifier.load(), windows=36, steps=15, guidance=zoo.guidance_scale("glyphs"), real=36,
        progress=False,
    )  # fmt: skip
    assert images.shape == (36, 64, 64, 3)
    assert report["generated"]["character"] >= 0.75
