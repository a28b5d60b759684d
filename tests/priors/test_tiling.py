"""Decoding in strips: the plain decode's numbers, less memory, and diffusers' own decode where it cannot be.

Encoding, closed pictures and maps that spill are in test_strips.py.
"""

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from exact_priors import relative
from tiny_vaes import latents, make_vae
from torch import nn

import fastsync as fs
from bench.memory import peak_of
from fastsync import zoo
from fastsync.priors.codecs import kl, strips


def make_scenes():
    if "scenes" not in zoo.names():
        pytest.skip("the weights of `scenes` are not there yet")
    return AutoencoderKL.from_pretrained(zoo.path("scenes"), subfolder="vae").float().eval()


@pytest.mark.parametrize("strip", [2**22, 7000, 1], ids=["whole", "some lines", "single lines"])
@pytest.mark.parametrize("make", [make_vae, make_scenes, lambda: tiny.make_pipeline().vae])
def test_strips_are_the_plain_decode(make, strip, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    vae = make()
    assert kl.unknown_part(vae) is None
    for shape in ((1, 9, 13), (2, 8, 5), (1, 1, 3)):
        z = latents(vae, *shape)
        with torch.no_grad():
            expected = vae.decode(z).sample
        got = kl.decode(vae, z)
        assert relative(got, expected) < 1e-5
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_variants_of_the_same_architecture(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3000)
    for changes in ({"use_post_quant_conv": False}, {"mid_block_add_attention": False}, {"act_fn": "gelu"}):
        vae = make_vae(**changes)
        z = latents(vae, 1, 6, 7)
        with torch.no_grad():
            assert relative(kl.decode(vae, z), vae.decode(z).sample) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_the_plain_decode(dtype, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 7000)
    vae = make_vae()
    z = latents(vae, 1, 9, 13).to(dtype)
    with torch.no_grad():
        exact = vae.decode(z.float()).sample
        plain = vae.to(dtype).decode(z).sample
    tiled = kl.decode(vae, z)
    assert tiled.dtype == dtype
    assert relative(tiled.float(), exact) < 1.2 * relative(plain.float(), exact)


def test_memory(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 2**14)
    vae = make_vae()
    z = latents(vae, 1, 24, 64)
    with torch.no_grad():
        plain, tiled = peak_of(lambda: vae.decode(z)), peak_of(lambda: kl.decode(vae, z))
    largest = 4 * 16 * (8 * 24) * (8 * 64)  # the last level's input: 16 channels
    assert tiled < 0.6 * plain
    assert tiled < 1.5 * largest + 16 * 4 * 2**14  # it, and the half as wide map that is made of it


# ---- as the prior uses it ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3000)
    pipe = tiny.make_pipeline()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
    return pipe


def test_diffusers_switch_is_exact_here(pipe):
    prior = fs.DiffusersPrior(pipe)
    z = latents(pipe.vae, 1, 8, 20)
    with torch.no_grad():
        plain = prior.decode(z)
        pipe.vae.enable_tiling()
        own = pipe.vae.decode(z / 0.5).sample
    assert relative(own, plain) > 1e-2  # what this is for
    for x in (z, z.clone().requires_grad_()):
        with torch.no_grad():
            assert relative(prior.decode(x), plain) < 1e-5
    assert relative(prior.decode(z), plain) < 1e-5  # weights alone do not ask for a gradient


def test_a_gradient_is_left_to_the_vae(pipe):
    prior = fs.DiffusersPrior(pipe)
    x = latents(pipe.vae, 1, 4, 4).requires_grad_()
    [expected] = torch.autograd.grad(prior.decode(x).square().sum(), x)
    pipe.vae.enable_tiling()
    [gradient] = torch.autograd.grad(prior.decode(x).square().sum(), x)
    assert torch.equal(gradient, expected)


def test_whole_pictures(pipe):
    settings = {"width": 40, "num_inference_steps": 1, "seed": 0, "output_type": "pt", "progress": False}
    plain = fs.SyncPipeline(pipe).wide("a cat", method="multidiffusion", loop=True, **settings).images
    pipe.vae.enable_tiling()
    tiled = fs.SyncPipeline(pipe).wide("a cat", method="multidiffusion", loop=True, **settings).images
    assert relative(tiled, plain) < 1e-5


class OtherNorm(nn.GroupNorm):
    pass


def swap_norm(vae):
    vae.decoder.conv_norm_out = OtherNorm(4, 8)


def swap_upsampler(vae):
    vae.decoder.up_blocks[0].upsamplers[0] = Upsample2D(8, use_conv=True, use_conv_transpose=True)


def swap_block(vae):
    vae.decoder.up_blocks[0] = nn.Identity()


def swap_convolution(vae):
    vae.decoder.mid_block.resnets[0].conv1.padding_mode = "circular"


def patch_convolution(vae):
    conv = vae.decoder.conv_out
    conv._conv_forward = lambda x, weight, bias: nn.functional.conv2d(x, weight, bias, padding=1)


@pytest.mark.parametrize(
    "change, name",
    [(swap_norm, "OtherNorm"), (swap_upsampler, "Upsample2D"), (swap_block, "Identity"),
     (swap_convolution, "ResnetBlock2D"), (patch_convolution, "Conv2d")],
)  # fmt: skip
def test_unknown_parts_are_named(pipe, change, name):
    change(pipe.vae)
    assert kl.unknown_part(pipe.vae) == name


def test_an_unknown_part_means_the_vaes_own_tiles_and_a_warning(pipe):
    swap_norm(pipe.vae)
    pipe.vae.enable_tiling()
    z = latents(pipe.vae, 1, 8, 20)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"cannot tile \(OtherNorm\), so its own tiles"):
        got = fs.DiffusersPrior(pipe).decode(z)
    with torch.no_grad():
        assert torch.equal(got, pipe.vae.decode(z / 0.5).sample)


def test_another_vae_is_unknown():
    assert kl.unknown_part(nn.Identity()) == "Identity"
