"""DiffusersPrior on tiny real pipelines: the UNet as the pipeline itself calls it, weights frozen while sampling."""

import pytest
import tiny_pipelines as tiny
import torch

import fastsync as fs

STEPS = {"num_inference_steps": 2}


def canvas():
    return fs.WideCanvas((8, 14), (8, 8), 6)


@pytest.fixture
def pipe():
    return tiny.make_pipeline()


def test_protocol(pipe):
    prior = fs.DiffusersPrior(pipe)
    assert prior.view_shape == (4, 8, 8) and prior.window == (8, 8) and prior.scale == 2
    assert prior.device == torch.device("cpu") and prior.dtype == torch.float32
    assert fs.DiffusersPrior(pipe, window=(6, 11)).view_shape == (4, 6, 11)


def test_prediction_is_the_unet_with_guidance(pipe):
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt(["a cat", "a dog"], "grey")
    assert cond.shape == uncond.shape == (2, tiny.TOKENS, tiny.WIDTH)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([801, 41])
    rows = []
    handle = pipe.unet.register_forward_hook(lambda m, args, kwargs, out: rows.append((args, kwargs)), with_kwargs=True)
    prediction = prior.predict(x, t, cond, uncond, 4.0)
    handle.remove()
    [(args, kwargs)] = rows
    assert torch.equal(args[0], torch.cat([x, x])) and args[1].dtype == torch.int64
    assert torch.equal(kwargs["encoder_hidden_states"], torch.cat([uncond, cond]))
    with torch.no_grad():
        e_c = pipe.unet(x, t, encoder_hidden_states=cond).sample
        e_u = pipe.unet(x, t, encoder_hidden_states=uncond).sample
    assert (e_c - e_u).abs().max() > 1e-3  # else the order of the halves would not show
    torch.testing.assert_close(prediction.eps.detach(), e_u + 4.0 * (e_c - e_u), rtol=1e-4, atol=1e-5)


def test_embeddings_are_those_of_the_pipeline(pipe):
    expected = pipe.encode_prompt(["a cat"], "cpu", 1, True, ["grey"])
    for got, wanted in zip(fs.DiffusersPrior(pipe).encode_prompt("a cat", "grey"), expected, strict=True):
        assert torch.equal(got, wanted) and not got.requires_grad
    empty = pipe.encode_prompt(["a cat"], "cpu", 1, True, None)[1]
    assert torch.equal(fs.DiffusersPrior(pipe).encode_prompt("a cat")[1], empty)


def test_predictions_and_decoding_are_differentiable(pipe):
    prior = fs.DiffusersPrior(pipe)
    cond, uncond = prior.encode_prompt("a cat")
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    x0, eps = prior.predict(x, torch.tensor([500]), cond, uncond, 2.0)
    for value in (x0.sum(), eps.sum(), prior.decode(x).sum()):
        [gradient] = torch.autograd.grad(value, x, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_encode_and_decode_use_the_scaling_factor(pipe):
    prior = fs.DiffusersPrior(pipe)
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = prior.encode(pixels)
        assert latents.shape == (1, 4, 8, 8)
        torch.testing.assert_close(latents, pipe.vae.encode(pixels).latent_dist.mean * 0.5)
        torch.testing.assert_close(prior.decode(latents), pipe.vae.decode(latents / 0.5).sample)


@pytest.mark.parametrize("method", [fs.MultiDiffusion(), fs.SyncVC(iterations=1)])
def test_weights_are_frozen_while_sampling_and_given_back(pipe, method):
    pipe.unet.conv_in.requires_grad_(False)  # a user's own choice, which must survive
    before = [p.requires_grad for p in pipe.unet.parameters()]
    assert True in before and False in before
    prior = fs.DiffusersPrior(pipe)
    cond, _ = prior.encode_prompt("a cat")
    during = []
    handle = pipe.unet.register_forward_hook(
        lambda *_: during.append(any(p.requires_grad for p in pipe.unet.parameters()))
    )
    fs.sample(prior, canvas(), method, cond=cond, **STEPS)
    assert during and not any(during)
    assert [p.requires_grad for p in pipe.unet.parameters()] == before
    assert all(p.grad is None for p in pipe.unet.parameters())
    handle.remove()

    def fail(*_):
        raise KeyboardInterrupt

    handle = pipe.unet.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        fs.sample(prior, canvas(), method, cond=cond, **STEPS)
    handle.remove()
    assert [p.requires_grad for p in pipe.unet.parameters()] == before


def test_windows_need_not_be_square_nor_divide(pipe):
    prior = fs.DiffusersPrior(pipe, window=(7, 11))
    cond, _ = prior.encode_prompt("a cat")
    wide = fs.WideCanvas((9, 20), (7, 11), (2, 9))
    out = fs.sample(prior, wide, fs.SyncVC(iterations=1), cond=cond, **STEPS)
    assert out.canvas.shape == (1, 4, 9, 20) and torch.isfinite(out.canvas).all()
    odd = tiny.make_pipeline(unet=tiny.make_unet(sample_size=9))
    assert fs.DiffusersPrior(odd).window == (9, 9)


def test_conditions_are_needed(pipe):
    with pytest.raises(ValueError, match="text embeddings"):
        fs.sample(fs.DiffusersPrior(pipe), canvas(), fs.Independent(), **STEPS)


class Bare:
    pass


def controlled(pipe):
    pipe.controlnet = torch.nn.Linear(1, 1)
    return pipe


@pytest.mark.parametrize(
    "make, words",
    [
        (Bare, "Bare is not a Stable-Diffusion-class pipeline"),
        (lambda: None, "NoneType is not"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(in_channels=9)), "9 channels"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(addition_embed_type="text")), "addition_embed_type='text'"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(class_embed_type="timestep")), "class_embed_type='timestep'"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(num_class_embeds=10)), "num_class_embeds=10"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(time_cond_proj_dim=8)), "time_cond_proj_dim=8"),
        (lambda: tiny.make_pipeline(unet=tiny.make_unet(sample_size=None)), "window=(h, w)"),
        (lambda: controlled(tiny.make_pipeline()), "a ControlNet"),
    ],
)
def test_pipelines_of_another_kind_are_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError) as caught:
        fs.DiffusersPrior(make())
    message = str(caught.value)
    assert words in message and "pass" in message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize("make", [Bare, lambda: None])
def test_what_is_no_pipeline_is_refused_in_one_sentence(make):
    with pytest.raises(ValueError, match="is no diffusers pipeline: pass one, or wrap your network with"):
        fs.SyncPipeline(make())


def test_wrong_windows_are_refused(pipe):
    for window in ((0, 8), (8, -1)):
        with pytest.raises(ValueError, match="window"):
            fs.DiffusersPrior(pipe, window=window)
    for window in (8, (8, 8, 8), (8.0, 8), "ab"):
        with pytest.raises(TypeError, match="window"):
            fs.DiffusersPrior(pipe, window=window)
