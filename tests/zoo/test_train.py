"""The training stages at a tiny size: they run, resume exactly, and export what diffusers can load."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from fastsync.zoo.models import TINY, make_vae
from fastsync.zoo.train import Stage, train
from fastsync.zoo.training.adopt import adopt
from fastsync.zoo.training.data import Pictures, held_out_windows, paint
from fastsync.zoo.training.latents import STRAY, stray
from fastsync.zoo.training.muon import orthogonalise
from fastsync.zoo.training.run import Run, learning_rate
from fastsync.zoo.training.vae import normalise_latents, train_vae


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole training of three steps a stage, and where it exported to."""
    folder = tmp_path_factory.mktemp("zoo")
    run = Run(folder / "work", size=TINY, steps=3, batch=8, progress=False)
    paint(run, 12, workers=1)
    train(run, Stage.all, 12, folder / "weights")
    return run, folder / "weights"


def test_the_export_loads_and_generates(trained):
    run, weights = trained
    pipeline = StableDiffusionPipeline.from_pretrained(weights / "scenes")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.safety_checker is None
    images = pipeline(["dunes at night", ""], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 32, 32, 3) and np.isfinite(images).all()
    assert {p.name for p in weights.iterdir()} == {"scenes", "scenes-classifier"}


def test_latents_are_normalised_and_belong_to_the_exported_autoencoder(trained):
    run, _ = trained
    latents = np.load(run.work / "latents.npy").astype(np.float64)
    assert latents.shape == (12, TINY.latent_channels, TINY.cells, 3 * TINY.cells)
    assert np.abs(latents.mean((0, 2, 3))).max() < 1e-2
    assert np.abs(latents.std((0, 2, 3)) - 1).max() < 1e-2
    vae = make_vae(TINY).eval()
    vae.load_state_dict(torch.load(run.work / "latents.pt", weights_only=True))
    pictures = Pictures(run)
    picture = torch.from_numpy(pictures.images[:1].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        plain, mirrored = (vae.encode(x).latent_dist.mean[0].numpy() for x in (picture, picture.flip(-1)))
    assert min(np.abs(plain - latents[0]).mean(), np.abs(mirrored - latents[0]).mean()) < 0.05


@pytest.mark.parametrize("stage", [Stage.vae, Stage.classifier, Stage.decoder, Stage.unet])
def test_a_resumed_stage_ends_like_an_uninterrupted_one(trained, tmp_path, stage):
    run, _ = trained
    whole, halves = (replace(run, work=tmp_path / name) for name in ("whole", "halves"))
    for other in (whole, halves):
        for path in run.work.iterdir():
            if path.name != f"{stage.value}.pt":
                (other.work / path.name).symlink_to(path)
    whole.steps = 4
    train(whole, stage)
    # The schedule follows the budget, so the interruption is a failure in the middle, not a smaller budget.
    halves.steps = 4
    _stop_after(halves, stage, 2)
    train(halves, stage)
    ends = [torch.load(other.work / f"{stage.value}.pt", weights_only=True) for other in (whole, halves)]
    assert ends[0]["step"] == ends[1]["step"] == 4
    for name, module in ends[0]["average"].items():
        for key, value in module.items():
            torch.testing.assert_close(ends[1]["average"][name][key], value, rtol=0, atol=0)


def _stop_after(run, stage, steps):
    from fastsync.zoo.training import run as module

    replacing, written = module.replacing, []

    class Interrupted(Exception):
        pass

    @contextmanager
    def stop(path):
        with replacing(path) as temporary:
            yield temporary
        written.append(path)
        if len(written) == steps:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "replacing", stop)
        patch.setattr(module, "SAVE_EVERY", 0.0)
        with pytest.raises(Interrupted):
            train(run, stage)


def test_a_finished_stage_is_not_run_again(trained):
    run, _ = trained
    before = (run.work / "vae.pt").read_bytes()
    train_vae(run)
    assert torch.load(run.work / "vae.pt", weights_only=True)["step"] == 3 and len(before)


def test_minutes_drive_the_schedule(trained, tmp_path):
    run, _ = trained
    short = replace(run, work=tmp_path, steps=None, minutes=1e-4)
    for name in ("scenes.bin", "scenes.json"):
        (tmp_path / name).symlink_to(run.work / name)
    train_vae(short)
    assert torch.load(tmp_path / "vae.pt", weights_only=True)["step"] >= 1


def test_learning_rate_warms_up_and_falls():
    assert learning_rate(0.0, 0, 1.0, 10) == pytest.approx(0.1)
    assert learning_rate(0.5, 100, 1.0, 10) == pytest.approx(0.505)
    assert learning_rate(1.0, 100, 1.0, 10) == pytest.approx(0.01)


def test_normalising_latents_changes_no_picture():
    torch.manual_seed(0)
    vae = make_vae(TINY).eval().requires_grad_(False)
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    before = vae.encode(x).latent_dist
    picture = vae.decode(before.mean).sample
    mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
    normalise_latents(vae, mean, std)
    after = vae.encode(x).latent_dist
    torch.testing.assert_close(after.mean, (before.mean - mean[:, None, None]) / std[:, None, None], atol=1e-4, rtol=0)
    torch.testing.assert_close(after.std * std[:, None, None], before.std, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vae.decode(after.mean).sample, picture, atol=1e-4, rtol=0)


def test_orthogonalised_matrices_have_equal_singular_values():
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert values.min() > 0.5 and values.max() < 1.4


def test_stray_words_are_rare_and_keep_the_caption():
    rng = np.random.default_rng(0)
    texts = [stray("a photo of dunes", rng) for _ in range(1000)]
    changed = [text for text in texts if text != "a photo of dunes"]
    assert abs(len(changed) / 1000 - STRAY) < 0.03
    assert all(len(text.split()) == 5 for text in changed)


def test_held_out_windows_repeat():
    first, labels, drawn = held_out_windows(3, 5, pixels=32)
    again, _, _ = held_out_windows(3, 5, pixels=32)
    assert np.array_equal(first, again) and labels.shape == (3, 3)
    assert all(scene.seed >= 2**40 for scene in drawn)


def test_adopted_weights_are_trained_further(trained, tmp_path):
    run, weights = trained
    other = replace(run, work=tmp_path)
    adopt(other, weights)
    shipped = torch.load(other.work / "unet.pt", weights_only=True)["average"]
    with pytest.raises(FileExistsError, match="there already"):
        adopt(other, weights)
    for name in ("latents.npy", "captions.npy", "tokenizer"):
        (other.work / name).symlink_to(run.work / name)
    train(other, Stage.unet)
    state = torch.load(other.work / "unet.pt", weights_only=True)
    assert state["step"] == run.steps
    moved = [not torch.equal(v, shipped["unet"][k]) for k, v in state["modules"]["unet"].items()]
    assert all(moved[:2])
    before = torch.load(run.work / "unet.pt", weights_only=True)["average"]["unet"]
    for key, value in shipped["unet"].items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)  # half precision on disk
