"""Encoding and decoding in strips: exact with maps in memory or in files, closed or open, in memory that is bounded."""

import errno
import functools
import gc
import tempfile

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import relative
from tiny_vaes import latents, make_small_vae, make_vae

import fastsync as fs
from bench.memory import peak_of
from fastsync.priors import VaeCodec
from fastsync.priors.codecs import autoencoder, kl, maps, strips
from fastsync.priors.codecs.maps import Cut, Map, Maps

CPU = torch.device("cpu")
FILES = functools.partial(Maps, budget=0)


def pictures(batch, height, width, dtype=torch.float32):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype).clamp(-1, 1)


def both_ways(vae, z, pixels, make=Maps, closed=(False, False)):
    return kl.decode(vae, z, closed, make), kl.encode(vae, pixels, closed, make)


@pytest.mark.parametrize("strip", [2**22, 7000, 1], ids=["whole", "some lines", "single lines"])
@pytest.mark.parametrize("make", [Maps, functools.partial(Maps, budget=60000), FILES], ids=["memory", "both", "files"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_plain_numbers(strip, make, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    vae = make_small_vae(3).to(dtype)
    # Sides that are no multiple of a cell lose what is over, as in the plain encoder.
    for cells, size in (((1, 5, 8), (1, 21, 34)), ((2, 6, 3), (2, 25, 12)), ((1, 1, 2), (1, 4, 9))):
        z, pixels = latents(vae, *cells).to(dtype), pictures(*size, dtype)
        with torch.no_grad():
            expected = vae.decode(z).sample, vae.encode(pixels).latent_dist.mode()
        for got, plain in zip(both_ways(vae, z, pixels, make), expected, strict=True):
            assert got.shape == plain.shape and got.dtype == dtype
            assert relative(got, plain) < tolerance
            assert (got - plain).abs().max() < tolerance * plain.abs().max()


def test_the_encoders_variants(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3000)
    for changes in ({"use_quant_conv": False}, {"mid_block_add_attention": False}, {"act_fn": "gelu"}):
        vae, pixels = make_vae(**changes), pictures(1, 24, 40)
        with torch.no_grad():
            assert relative(kl.encode(vae, pixels, make=FILES), vae.encode(pixels).latent_dist.mode()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_keep_half_precision(dtype, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 7000)
    vae = make_vae().to(dtype)
    z, pixels = latents(vae, 1, 6, 9).to(dtype), pictures(1, 48, 72).to(dtype)
    without_attention = make_vae(mid_block_add_attention=False).to(dtype)
    for got, same in zip(both_ways(without_attention, z, pixels, FILES), both_ways(without_attention, z, pixels),
                         strict=True):  # fmt: skip
        assert got.dtype == dtype and torch.equal(got, same)
    exact = make_vae().to(dtype).float()
    plain = vae.decode(z).sample.float(), vae.encode(pixels).latent_dist.mode().float()
    best = exact.decode(z.float()).sample, exact.encode(pixels.float()).latent_dist.mode()
    for got, one, other in zip(both_ways(vae, z, pixels, FILES), plain, best, strict=True):
        assert relative(got.float(), other) < 1.2 * relative(one, other)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_in_blocks_is_attention(heads, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 50)  # several blocks of keys to each of queries
    vae = make_vae().double()
    for half in (vae.encoder, vae.decoder):
        (layer,) = half.mid_block.attentions
        layer.heads = heads
        for linear in (layer.to_q, layer.to_k):
            linear.weight.data.mul_(30.0)  # a sharp softmax, which would overflow without the running maximum
    z, pixels = latents(vae, 1, 5, 4).double(), pictures(1, 40, 32, torch.float64)
    with torch.no_grad():
        expected = vae.decode(z).sample, vae.encode(pixels).latent_dist.mode()
    for got, plain in zip(both_ways(vae, z, pixels, FILES), expected, strict=True):
        assert relative(got, plain) < 1e-9


# ---- closed pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("make", [Maps, FILES], ids=["memory", "files"])
@pytest.mark.parametrize("strip", [2**22, 5000, 1])
def test_a_closed_picture_has_no_preferred_place(closed, make, strip, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    vae = make_small_vae().double()
    for height, width in ((4, 6), (7, 3), (1, 1)):
        z, pixels = latents(vae, 1, height, width).double(), pictures(1, 2 * height, 2 * width, torch.float64)
        turn = [1 if closes else 0 for closes in closed]
        pixel_turn = [2 * step for step in turn]
        straight = both_ways(vae, z, pixels, make, closed)
        turned = both_ways(vae, z.roll(turn, (2, 3)), pixels.roll(pixel_turn, (2, 3)), make, closed)
        assert relative(turned[0], straight[0].roll(pixel_turn, (2, 3))) < 1e-12
        assert relative(turned[1], straight[1].roll(turn, (2, 3))) < 1e-12


def test_a_closed_picture_is_the_middle_of_many(monkeypatch):
    """Far from the ends of many copies side by side there is no end; without a norm nothing else differs."""
    monkeypatch.setattr(strips, "STRIP", 5000)
    vae = make_small_vae(mid_block_add_attention=False).double()
    z, pixels = latents(vae, 1, 4, 6).double(), pictures(1, 8, 12, torch.float64)
    copies = 201  # whose two ends no longer count in the statistics
    with torch.no_grad():
        wide = vae.decode(z.repeat(1, 1, 1, copies)).sample[..., 1200:1212]
        wide_latents = vae.encode(pixels.repeat(1, 1, 1, copies)).latent_dist.mode()[..., 600:606]
    decoded, encoded = both_ways(vae, z, pixels, closed=(False, True))
    assert relative(decoded, wide) < 0.02 and relative(encoded, wide_latents) < 0.02
    plain = vae.decode(z).sample, vae.encode(pixels).latent_dist.mode()
    assert relative(plain[0], wide) > 0.2 and relative(plain[1], wide_latents) > 0.05


def test_where_a_gradient_is_asked_for_the_other_side_is_computed_along():
    vae = make_small_vae().requires_grad_(False)
    codec = VaeCodec(vae)
    z, pixels = latents(vae, 1, 4, 6).requires_grad_(), pictures(1, 8, 12).requires_grad_()
    for function, given, scale in ((codec.decode, z, 2), (codec.encode, pixels, 1 / 2)):
        got = function(given, CPU, (False, True))
        assert got.shape[-2:] == tuple(int(scale * side) for side in given.shape[-2:])
        (gradient,) = torch.autograd.grad(got.square().sum(), given)
        assert gradient.shape == given.shape and gradient.abs().min(dim=1).values.min() > 0
        with torch.no_grad():
            exact = function(given, CPU, (False, True))
            assert relative(got, exact) < 0.5 * relative(function(given, CPU), exact)


def test_pictures_that_close_are_whole_cells():
    codec = VaeCodec(make_vae())
    with pytest.raises(ValueError, match=r"multiples of 8 pixels here, got 16 x 20: crop or resize"):
        codec.encode(pictures(1, 16, 20), CPU, (False, True))
    assert codec.encode(pictures(1, 16, 20), CPU).shape == (1, 4, 2, 2)


# ---- by default -------------------------------------------------------------------------------------------------


def test_strips_are_the_default_of_large_pictures(monkeypatch):
    vae = make_vae(sample_size=32)
    codec, used = VaeCodec(vae), []
    for name in ("decode", "encode"):
        plain = getattr(kl, name)
        monkeypatch.setattr(kl, name, lambda *args, f=plain, n=name: used.append(n) or f(*args))
    small, large = latents(vae, 1, 4, 4), latents(vae, 1, 4, 5)
    with torch.no_grad():
        for x in (small, large):  # all small in bytes
            codec.encode(codec.decode(x, CPU), CPU)
        assert not used
        monkeypatch.setattr(autoencoder, "SMALL", 0)
        assert torch.equal(codec.decode(small, CPU), vae.decode(small / 0.18215).sample)
        assert not used
        codec.encode(codec.decode(large, CPU), CPU)
    assert used == ["decode", "encode"]
    codec.decode(large.clone().requires_grad_(), CPU)
    assert used == ["decode", "encode"]
    codec.decode(large, CPU)  # weights alone do not ask for a gradient
    assert used == ["decode", "encode", "decode"]


def test_memory_does_not_grow_with_the_width(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 2**12)
    monkeypatch.setitem(maps.BUDGET, "cpu", 2**16)
    monkeypatch.setattr(autoencoder, "SMALL", 0)
    vae = make_small_vae(3, block_out_channels=(8, 16, 16), sample_size=32)
    codec = VaeCodec(vae)

    def account(width):
        z, pixels = latents(vae, 1, 8, width), pictures(1, 32, 4 * width)
        canvas = 4 * (z.numel() + pixels.numel())
        with torch.no_grad():
            return [peak_of(lambda: codec.decode(z, CPU)) - canvas, peak_of(lambda: codec.encode(pixels, CPU)) - canvas]

    narrow, wide = account(32), account(192)
    assert max(narrow) < 2**19 and all(b < a + 2**17 for a, b in zip(narrow, wide, strict=True)), (narrow, wide)


# ---- temporary files --------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """The temporary files that are made."""
    files, plain = [], tempfile.TemporaryFile

    def make(*args, **settings):
        files.append(plain(*args, **settings))
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    return files


def test_files_are_closed_also_after_an_error(opened, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 3000)
    vae, z = make_vae(), latents(make_vae(), 1, 4, 6)
    kl.decode(vae, z, make=FILES)
    assert len(opened) > 10 and all(file.closed for file in opened)

    def fail(*_):
        raise KeyboardInterrupt

    vae.decoder.up_blocks[2].resnets[1].conv2.register_forward_hook(fail)
    opened.clear()
    with pytest.raises(KeyboardInterrupt):
        kl.decode(vae, z, make=FILES)
    assert len(opened) > 5 and all(file.closed for file in opened)


def test_no_more_files_are_open_than_are_needed(opened, monkeypatch):
    vae, z, most = make_vae(), latents(make_vae(), 1, 4, 6), 0
    plain = maps.File.write

    def write(self, *args):
        nonlocal most
        most = max(most, sum(not file.closed for file in opened))
        plain(self, *args)

    monkeypatch.setattr(maps.File, "write", write)
    kl.decode(vae, z, make=FILES)
    gc.collect()
    assert most == 4  # in attention: cells, keys, values, result


def test_a_full_disk_is_one_sentence(opened, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        seek, write, closed = staticmethod(full), staticmethod(full), True

        def close(self):
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(OSError, match="is full, where .*: make room there, or set TMPDIR") as caught:
        kl.decode(make_vae(), latents(make_vae(), 1, 4, 6), make=FILES)
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("budget", [0, 2**20])
def test_a_map_gives_back_what_was_written_and_its_moments(axis, budget):
    x = torch.randn(1, 6, 5, 7, dtype=torch.float64) * 3 + 100
    lines = x.shape[axis]
    with Maps(x, Cut(axis), budget) as made:
        kept = made.new(6, (5, 7))
        for _ in range(2):
            kept.restart()
            for start, stop in ((0, 1), (1, 4), (4, lines)):
                kept.write(start, x.narrow(axis, start, stop - start))
            assert torch.equal(kept.whole(), x) and torch.equal(kept.read(1, 3), x.narrow(axis, 1, 2))
            variance, mean = torch.var_mean(x.reshape(3, -1), 1, correction=0)
            assert relative(kept.moments(3)[0], mean) < 1e-12 and relative(kept.moments(3)[1], variance) < 1e-10
            x = x.flip(1) - 50.0
    assert Map.of(x, Cut(axis)).lines == lines


def test_maps_beyond_the_budget_go_outside():
    like = torch.zeros(1)
    with Maps(like, Cut(3), budget=4 * 100) as made:
        first, second, third = (made.new(1, (5, 10)) for _ in range(3))
        kinds = [type(each._store).__name__ for each in (first, second, third)]
        assert kinds == ["Memory", "Memory", "File"]
        made.close(first)
        assert type(made.new(1, (5, 10))._store).__name__ == "Memory"


# ---- other autoencoders -----------------------------------------------------------------------------------------


def test_a_large_picture_that_is_computed_whole_is_said(monkeypatch):
    monkeypatch.setattr(autoencoder, "LARGE", 100)
    vae = make_small_vae()
    vae.decoder.conv_norm_out.__class__ = type("OtherNorm", (torch.nn.GroupNorm,), {})
    with torch.no_grad(), pytest.warns(UserWarning, match=r"cannot tile \(OtherNorm\).* computed whole: .*own tiles"):
        got = VaeCodec(vae).decode(latents(vae, 1, 4, 8), CPU)
    with torch.no_grad():
        assert torch.equal(got, vae.decode(latents(vae, 1, 4, 8) / 0.18215).sample)


def test_whole_loops_of_a_pipeline_turn_exactly():
    """The task's own decode: a canvas turned by a cell gives a picture turned by a cell's pixels."""
    prior = fs.DiffusersPrior(tiny.make_pipeline())
    z = torch.randn(1, 4, 8, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight, turned = (prior.decode(x, closed=(False, True)) for x in (z, z.roll(3, -1)))
        assert relative(turned, straight.roll(3 * tiny.SCALE, -1)) < 1e-5
        back = prior.encode(straight.clamp(-1, 1), closed=(False, True))
        assert relative(prior.encode(turned.clamp(-1, 1), closed=(False, True)), back.roll(3, -1)) < 1e-5
