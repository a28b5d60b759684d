"""Codecs of diffusers' autoencoders against their own encode and decode, there, back and in gradients."""

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    AutoencoderTiny,
)
from exact_priors import relative
from torch.nn.functional import pixel_unshuffle

from bench.memory import peak_of
from fastsync.priors import VaeCodec
from fastsync.priors.codecs import autoencoder, local, strips, upcast_dtype

CPU = torch.device("cpu")


def kl(**changes):
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 16),
        "norm_num_groups": 4,
    }
    return AutoencoderKL(**{**settings, **changes})


def flux2():
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.uniform_(-1, 1)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def dc(**changes):
    settings = {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8, 16),
        "decoder_block_out_channels": (8, 8, 16),
        "encoder_layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1),
        "encoder_qkv_multiscales": ((), (), (5,)),
        "decoder_qkv_multiscales": ((), (), (5,)),
        "scaling_factor": 0.41,
    }
    return AutoencoderDC(**{**settings, **changes})


def wan(**changes):
    return AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True], **changes
    )


def qwen():
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 2.0, 1.0],
    )


def tiny():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


# name: how it is made, pixels a cell, own latents of pixels, pixels of own latents, sample units of own latents
FAMILIES = {
    "KL": (
        lambda: kl(scaling_factor=0.2, shift_factor=0.1),
        4,
        lambda vae, x: vae.encode(x).latent_dist.mode(),
        lambda vae, z: vae.decode(z).sample,
        lambda z: (z - 0.1) * 0.2,
    ),
    "KL with statistics": (
        lambda: kl(scaling_factor=0.2, latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.0, 1.5, 2.0]),
        4,
        lambda vae, x: vae.encode(x).latent_dist.mode(),
        lambda vae, z: vae.decode(z).sample,
        lambda z: (
            (z - torch.tensor([1.0, 2, 3, 4])[:, None, None]) * 0.2 / torch.tensor([0.5, 1, 1.5, 2])[:, None, None]
        ),
    ),
    "DC": (
        dc,
        4,
        lambda vae, x: vae.encode(x).latent,
        lambda vae, z: vae.decode(z).sample,
        lambda z: z * 0.41,
    ),
    "Qwen": (
        qwen,
        4,
        lambda vae, x: vae.encode(x[:, :, None]).latent_dist.mode()[:, :, 0],
        lambda vae, z: vae.decode(z[:, :, None]).sample[:, :, 0],
        lambda z: (
            (z - torch.tensor([0.1, -0.2, 0.3, 0.0])[:, None, None]) / torch.tensor([1.5, 0.5, 2, 1])[:, None, None]
        ),
    ),
    "Tiny": (
        tiny,
        4,
        lambda vae, x: vae.encode(x).latents,
        lambda vae, z: vae.decode(z).sample,
        lambda z: z,
    ),
}  # fmt: skip


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_own_encode_and_decode_and_their_gradients(family):
    make, scale, encode, decode, to_units = FAMILIES[family]
    vae = made(make)
    codec = VaeCodec(vae)
    assert codec.scale == scale
    pixels = noise(2, 3, 3 * scale, 5 * scale).clamp(-1, 1).requires_grad_()
    own = encode(vae, pixels)
    x = codec.encode(pixels, CPU)
    assert x.shape == (2, own.shape[1], 3, 5) and relative(x.detach(), to_units(own).detach()) < 1e-6
    weights = noise(*x.shape, seed=1)
    given, expected = (torch.autograd.grad((v * weights).sum(), pixels)[0] for v in (x, to_units(own)))
    assert relative(given, expected) < 1e-5
    z = noise(2, own.shape[1], 3, 5, seed=2).requires_grad_()
    units = to_units(z)
    back, plain = codec.decode(units, CPU), decode(vae, z)
    assert back.shape == (2, 3, 3 * scale, 5 * scale) and relative(back.detach(), plain.detach()) < 1e-5
    weights = noise(*back.shape, seed=3)
    given, expected = (torch.autograd.grad((v * weights).sum(), z)[0] for v in (back, plain))
    assert relative(given, expected) < 1e-4


def test_plain_scales_are_the_pipelines_own_bits():
    vae = made(lambda: kl(scaling_factor=0.13025, shift_factor=0.1))
    z = noise(1, 4, 3, 5)
    with torch.no_grad():
        assert torch.equal(VaeCodec(vae).decode(z, CPU), vae.decode(z / 0.13025 + 0.1).sample)


def test_patches_are_normalised_by_their_places():
    """FLUX.2's latents are squares of two by two cells, normalised by running statistics of 4 C channels."""
    vae = made(flux2)
    std, mean = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps), vae.bn.running_mean
    codec = VaeCodec(vae, factor=std.reshape(4, 2, 2), shift=mean.reshape(4, 2, 2), patch=2)
    assert codec.scale == 4
    pixels = noise(1, 3, 12, 20).clamp(-1, 1)
    with torch.no_grad():
        own = vae.encode(pixels).latent_dist.mode()
        units = (pixel_unshuffle(own, 2) - mean[:, None, None]) / std[:, None, None]
        assert relative(codec.encode(pixels, CPU), units) < 1e-6
        assert relative(codec.decode(units, CPU), vae.decode(own).sample) < 1e-5
        by_channel = VaeCodec(vae, factor=torch.tensor([1.0, 2, 3, 4]), shift=torch.arange(4.0), patch=2)
        units = pixel_unshuffle((own - torch.arange(4.0)[:, None, None]) / torch.arange(1.0, 5)[:, None, None], 2)
        assert relative(by_channel.encode(pixels, CPU), units) < 1e-6
        assert relative(by_channel.decode(units, CPU), vae.decode(own).sample) < 1e-5


def test_another_dtype_leaves_the_weights_alone():
    vae = made(lambda: kl()).half()
    assert upcast_dtype(vae) == torch.float32 and upcast_dtype(kl()) is None
    vae.register_to_config(force_upcast=False)
    assert upcast_dtype(vae) is None
    exact = made(lambda: kl()).half().float()
    codec = VaeCodec(vae, dtype=torch.float32)
    z = noise(1, 4, 3, 5)
    with torch.no_grad():
        pixels = codec.decode(z, CPU)
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, VaeCodec(exact).decode(z, CPU))
        assert torch.equal(codec.encode(pixels, CPU), VaeCodec(exact).encode(pixels, CPU))
    assert {p.dtype for p in vae.parameters()} == {torch.float16}


@pytest.mark.parametrize("size", [(5, 29), (31, 4), (1, 2)])
@pytest.mark.parametrize("strip", [2**21, 1], ids=["large pieces", "small pieces"])
@pytest.mark.parametrize("change", ["DC", "DC interpolated", "DC flat", "Qwen", "Wan"])
def test_fine_levels_piece_by_piece_are_the_whole(change, strip, size, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    make = {
        "DC": dc,
        "DC interpolated": lambda: dc(upsample_block_type="interpolate", downsample_block_type="conv"),
        "DC flat": lambda: dc(encoder_layers_per_block=(0, 1, 1), decoder_layers_per_block=(0, 1, 1)),
        "Qwen": qwen,
        "Wan": wan,
    }[change]
    vae = made(make).double()
    parts = local.taken_apart(vae)
    assert parts is not None and len(parts.decode_fine) > 2 and len(parts.encode_fine) > 2
    frame = (1,) if change in ("Qwen", "Wan") else ()
    z = noise(2, 4, *frame, *size).double()
    pixels = noise(2, 3, *frame, *(4 * side for side in size)).double()
    with torch.no_grad():
        tolerance = 1e-12 if frame else 1e-6  # DC's attention computes in float32
        assert relative(local.decode(vae, parts, z), vae.decode(z).sample) < tolerance
        encoded = vae.encode(pixels, return_dict=False)[0]
        expected = encoded.mode() if frame else encoded
        assert relative(local.encode(vae, parts, pixels), expected) < tolerance


@pytest.mark.parametrize("make", [dc, qwen])
def test_pieces_are_the_default_of_large_pictures_and_take_less(make, monkeypatch):
    vae = made(make)
    codec, z = VaeCodec(vae), noise(1, 4, 4, 100)
    with torch.no_grad():
        whole = codec.decode(z, CPU)
        before = peak_of(lambda: codec.decode(z, CPU)), peak_of(lambda: codec.encode(whole, CPU))
        latents = codec.encode(whole, CPU)
        monkeypatch.setattr(autoencoder, "LARGE", 4000)
        monkeypatch.setattr(strips, "STRIP", 2**10)
        assert relative(codec.decode(z, CPU), whole) < 1e-5
        assert relative(codec.encode(whole, CPU), latents) < 1e-5
        after = peak_of(lambda: codec.decode(z, CPU)), peak_of(lambda: codec.encode(whole, CPU))
        assert all(b < 0.8 * a for a, b in zip(before, after, strict=True)), (before, after)
        closed = codec.decode(z, CPU, (False, True))
        turned = codec.decode(z.roll(50, -1), CPU, (False, True))
    # All of this small picture lies twice in what is computed, so all that is left is the ends' share in attention.
    assert relative(turned, closed.roll(200, -1)) < 0.02


def test_what_is_not_known_is_not_taken_apart():
    assert local.taken_apart(made(tiny)) is None
    vae = made(qwen)
    vae.encoder.down_blocks[0] = torch.nn.Identity()
    assert local.taken_apart(vae) is None
    assert local.taken_apart(made(lambda: wan(is_residual=True))) is None


@pytest.mark.parametrize(
    "settings, error, words",
    [({"patch": 0}, ValueError, "patch"), ({"scale": 1.5}, TypeError, "scale"), ({"factor": "a"}, TypeError, "factor"),
     ({"factor": float("nan")}, ValueError, "factor"), ({"shift": torch.tensor([float("nan")])}, ValueError, "shift"),
     ({"factor": torch.ones(4, 3, 3), "patch": 2}, ValueError, r"\[C, 2, 2\] \(patch=2\), got \[4, 3, 3\]"),
     ({"shift": torch.tensor(1.0)}, ValueError, r"shift must be .* got tensor\(1\.\)")],
)  # fmt: skip
def test_bad_arguments_get_one_sentence(settings, error, words):
    with pytest.raises(error, match=words) as caught:
        VaeCodec(made(kl), **settings)
    assert "\n" not in str(caught.value)


def test_a_vae_that_says_no_scale():
    class Other(torch.nn.Module):
        config: dict = {}

    with pytest.raises(ValueError, match="Other does not say how many pixels .*: pass scale="):
        VaeCodec(Other())
    assert VaeCodec(Other(), scale=8).scale == 8
