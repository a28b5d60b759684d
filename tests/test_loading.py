"""Pipelines from folders, and ControlNets of any family beside them."""

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch
from diffusers import FluxControlNetModel, SanaControlNetModel

import fastsync as fs
from fastsync.loading import controlnet_pipeline, load_pipeline

KINDS = {
    "StableDiffusionControlNetPipeline": (tiny.make_pipeline, "unet"),
    "StableDiffusionXLControlNetPipeline": (families.make_xl_pipeline, "unet"),
    "FluxControlNetPipeline": (families.make_flux_pipeline, "transformer"),
}


def make_net(pipe, seed=0):
    """A ControlNet for the tiny pipeline."""
    if hasattr(pipe, "unet"):
        return tiny.make_controlnet(pipe.unet, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {name: pipe.transformer.config[name] for name in ("attention_head_dim", "num_attention_heads")}
        return FluxControlNetModel.from_transformer(
            pipe.transformer, num_layers=1, num_single_layers=1, load_weights_from_transformer=False, **sizes
        )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder a kind, with the model and two ControlNets."""
    found = {}
    for name, (make, _) in KINDS.items():
        folder, pipe = tmp_path_factory.mktemp(name), make()
        pipe.save_pretrained(folder / "model")
        for n in (0, 1):
            make_net(pipe, n).save_pretrained(folder / f"net{n}")
        found[name] = folder
    return found


def weights(module):
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_the_controlnet_pipeline_of_the_models_own_family(folders, name, dtype):
    folder, (make, network) = folders[name], KINDS[name]
    pipe = load_pipeline(folder / "model", str(folder / "net0"), "cpu", dtype)
    assert type(pipe).__name__ == name
    plain = make().to(dtype or torch.float32)
    assert torch.equal(weights(getattr(pipe, network)), weights(getattr(plain, network)))
    assert torch.equal(weights(pipe.controlnet), weights(make_net(make()).to(dtype or torch.float32)))
    assert {getattr(pipe, part).dtype for part in (network, "controlnet", "vae")} == {dtype or torch.float32}
    assert pipe.name_or_path == str(folder / "model") and pipe.progress_bar(total=1).disable
    assert type(pipe.scheduler) is type(plain.scheduler)
    assert settings(pipe.scheduler) == settings(plain.scheduler)


def settings(scheduler):
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


@pytest.mark.parametrize("name", KINDS)
def test_several(folders, name):
    folder = folders[name]
    pipe = load_pipeline(folder / "model", [folder / "net0", folder / "net1"], "cpu", None)
    assert type(pipe).__name__ == name and len(pipe.controlnet.nets) == 2
    assert not torch.equal(*(weights(net) for net in pipe.controlnet.nets))


def test_it_samples(folders):
    folder = folders["StableDiffusionControlNetPipeline"]
    for given in (folder / "net0", [folder / "net0"]):
        sync = fs.SyncPipeline.from_pretrained(folder / "model", controlnet=given, device="cpu")
        settings = {"num_inference_steps": 2, "seed": 0, "progress": False, "output_type": "latent", "width": 28}
        image = torch.rand(3, 16, 28, generator=torch.Generator().manual_seed(0))
        out = sync.wide("a cat", control_image=image, **settings)
        expected = fs.SyncPipeline(tiny.make_control_pipeline()).wide("a cat", control_image=image, **settings)
        torch.testing.assert_close(out.latents, expected.latents, rtol=1e-4, atol=1e-5)


def test_a_model_that_has_one_gets_another(tmp_path, folders):
    tiny.make_control_pipeline().save_pretrained(tmp_path)
    folder = folders["StableDiffusionControlNetPipeline"]
    pipe = load_pipeline(tmp_path, folder / "net1", "cpu", None)
    assert type(pipe).__name__ == "StableDiffusionControlNetPipeline"
    assert torch.equal(weights(pipe.controlnet), weights(make_net(pipe, 1)))


def refused(call, *words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 400 and message.endswith("."), message


def test_what_does_not_belong_together_is_one_sentence(folders, tmp_path):
    sd, flux = folders["StableDiffusionControlNetPipeline"], folders["FluxControlNetPipeline"]
    load = load_pipeline
    refused(
        lambda: load(sd / "model", flux / "net0", "cpu", None), "ControlNetModel, got FluxControlNetModel", "trained"
    )
    refused(
        lambda: load(flux / "model", sd / "net0", "cpu", None), "FluxControlNetPipeline takes", "got ControlNetModel"
    )
    refused(lambda: load(sd / "model", tmp_path, "cpu", None), "controlnet", "no complete ControlNet")
    refused(lambda: load(sd / "model", [], "cpu", None), "empty list")
    refused(lambda: load(sd / "model", 5, "cpu", None), "controlnet must be a folder", "got 5")
    refused(lambda: load(sd / "model", [5], "cpu", None), "controlnet must be a folder", "got 5")
    (tmp_path / "config.json").write_text('{"_class_name": "NoModel"}')
    refused(lambda: load(sd / "model", tmp_path, "cpu", None), "is of class 'NoModel', which diffusers does not have")
    tiny.make_vae().save_pretrained(tmp_path / "vae")
    refused(lambda: load(sd / "model", tmp_path / "vae", "cpu", None), "ControlNetModel", "got AutoencoderKL")


@pytest.mark.parametrize("make", [tiny.make_pixel_pipeline, tiny.make_depth_pipeline])
def test_families_without_one_are_one_sentence(make, folders, tmp_path):
    make().save_pretrained(tmp_path)
    net = folders["StableDiffusionControlNetPipeline"] / "net0"
    own = type(make()).__name__
    refused(
        lambda: load_pipeline(tmp_path, net, "cpu", None), f"given for {own}", own.replace("Pipeline", "ControlNet")
    )


@pytest.mark.parametrize("name, expected", [
    ("StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetImg2ImgPipeline"),
    ("StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetInpaintPipeline"),
    ("StableDiffusionControlNetPipeline", "StableDiffusionControlNetPipeline"),
])  # fmt: skip
def test_forms_of_a_pipeline_keep_their_form(name, expected):
    refused(lambda: controlnet_pipeline(name, [torch.nn.Identity()]), f"{expected} takes a ControlNet")


def test_a_pipeline_that_takes_one_only():
    net = object.__new__(SanaControlNetModel)
    assert controlnet_pipeline("SanaPipeline", [net]).__name__ == "SanaControlNetPipeline"
    refused(
        lambda: controlnet_pipeline("SanaPipeline", [net, net]), "SanaControlNetPipeline takes one ControlNet, got 2"
    )
