"""SyncPipeline on tiny real pipelines: diffusers' own pictures at one window, any size, repeatable, nothing changed."""

import ast
import copy
import json
import re
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image

import fastsync as fs
from fastsync import zoo

P, F = tiny.PIXELS, tiny.SCALE


@pytest.fixture(scope="module")
def pipe():
    return tiny.make_pipeline()


@pytest.fixture(scope="module")
def sync(pipe):
    return fs.SyncPipeline(pipe)


def wide(sync, prompt="a cat", **arguments):
    settings = {"method": "multidiffusion", "num_inference_steps": 2, "width": 28, "seed": 0}
    settings |= {"output_type": "np", "progress": False}
    return sync.wide(prompt, **{**settings, **arguments})


# ---- one window is diffusers' own picture -----------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_window_is_the_pipelines_own_picture(prediction, eta, guidance):
    pipe = tiny.make_pipeline(scheduler=tiny.make_scheduler(prediction_type=prediction))
    settings = {"negative_prompt": "a dog", "num_inference_steps": 4, "guidance_scale": guidance, "eta": eta}
    expected = pipe("a cat", generator=torch.Generator().manual_seed(5), output_type="np", **settings).images
    assert expected.std() > 0.05
    sync = fs.SyncPipeline(pipe)
    for method in ("independent", "multidiffusion", "syncvc"):
        generator = torch.Generator().manual_seed(5)
        out = wide(sync, width=P, method=method, seed=None, generator=generator, **settings)
        np.testing.assert_allclose(out.images, expected, atol=1e-5)
    other = wide(sync, width=P, seed=6, **settings)
    assert np.abs(other.images - expected).max() > 0.05


@pytest.mark.skipif("scenes" not in zoo.names(), reason="the weights of `scenes` are not there yet")
def test_one_window_of_the_embedded_prior_is_its_pipelines_own_picture():
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(zoo.path("scenes"))
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0}
    expected = pipe("dunes", generator=torch.Generator().manual_seed(5), output_type="np", **settings).images
    for method in ("multidiffusion", "syncvc"):
        generator = torch.Generator().manual_seed(5)
        out = wide(fs.SyncPipeline(pipe), "dunes", width=128, method=method, seed=None, generator=generator, **settings)
        np.testing.assert_allclose(out.images, expected, atol=1e-5)


def test_guidance_negative_prompt_and_eta_matter(sync):
    base = wide(sync, width=P, num_inference_steps=4)
    for change in ({"guidance_scale": 1.0}, {"negative_prompt": "z"}, {"eta": 1.0}, {"prompt": "zebra"}):
        assert np.abs(wide(sync, width=P, num_inference_steps=4, **change).images - base.images).max() > 1e-3, change


def test_pil_tensor_and_latent_outputs(pipe, sync):
    settings = {"num_inference_steps": 3, "guidance_scale": 7.5}
    [expected] = pipe("a cat", generator=torch.Generator().manual_seed(0), **settings).images
    out = wide(sync, width=P, output_type="pil", **settings)
    [image] = out.images
    assert isinstance(image, Image.Image) and image.size == (P, P)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1
    tensor = wide(sync, width=P, output_type="pt", **settings).images
    assert tensor.shape == (1, 3, P, P) and tensor.min() >= 0 and tensor.max() <= 1
    latents = wide(sync, width=P, output_type="latent", **settings)
    assert latents.images is latents.latents and torch.equal(latents.latents, out.latents)
    own = pipe("a cat", generator=torch.Generator().manual_seed(0), output_type="latent", **settings).images
    torch.testing.assert_close(latents.latents, own, rtol=1e-4, atol=1e-4)


def test_latents_are_diffusers_latents(pipe, sync):
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = pipe("a cat", latents=z, num_inference_steps=3, output_type="np").images
    np.testing.assert_allclose(wide(sync, width=P, latents=z, num_inference_steps=3).images, expected, atol=1e-5)
    half = wide(sync, width=P, latents=z.half(), num_inference_steps=3)
    assert half.latents.dtype == torch.float32
    np.testing.assert_allclose(half.images, expected, atol=0.05)


# ---- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "height, width, overlap", [(16, 16, None), (16, 17, 4), (17, 45, 5), (21, 33, 0), (16, 61, 14), (31, 16, 3)]
)
def test_any_size_has_the_pixels_that_were_asked_for(sync, height, width, overlap):
    out = wide(sync, height=height, width=width, overlap=overlap, num_inference_steps=1)
    assert out.images.shape == (1, height, width, 3)
    assert np.isfinite(out.images).all()
    assert (out.canvas.coverage >= 1).all()
    assert out.latents.shape[2:] == out.canvas.size == (-(-height // F), -(-width // F))
    (top, left), size = out.canvas.origins[-1], out.canvas.size
    assert (top + tiny.CELLS, left + tiny.CELLS) == size
    if overlap is not None and out.canvas.num_views > 1:
        xs = sorted({x for _, x in out.canvas.origins})
        assert all(tiny.CELLS - (b - a) >= overlap / F for a, b in zip(xs, xs[1:], strict=False))


def test_default_size_is_one_window_high_and_four_wide(sync):
    out = wide(sync, width=None, num_inference_steps=1, output_type="pil")
    assert out.images[0].size == (4 * P, P) and sync.window_pixels == (P, P)


def test_a_prompt_for_each_window(sync):
    prompts = ["a cat", "zebra", "a cat"]
    settings = {"width": 40, "overlap": 4, "method": "independent"}
    mixed, cats, zebras = (wide(sync, p, **settings).views for p in (prompts, "a cat", "zebra"))
    assert len(mixed) == 3
    for i, same in enumerate((cats, zebras, cats)):
        torch.testing.assert_close(mixed[i], same[i], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cats[1], zebras[1], atol=1e-4)
    assert wide(sync, prompts, **settings).parameters["prompt"] == prompts


@pytest.mark.parametrize("method", ["multidiffusion", fs.SyncVC(1, view_order=[0, 1, 2, 3, 4, 5])])
def test_a_loop_has_no_preferred_place(sync, method):
    """Turning the noise (and the work order) by one stride turns the result."""
    settings = {"width": 48, "overlap": 8, "num_inference_steps": 3}
    z = torch.randn(1, 4, 8, 24, generator=torch.Generator().manual_seed(0))
    turned = method if isinstance(method, str) else fs.SyncVC(1, view_order=[1, 2, 3, 4, 5, 0])
    straight = wide(sync, loop=True, method=method, latents=z, **settings).latents
    rolled = wide(sync, loop=True, method=turned, latents=z.roll(4, -1), **settings).latents
    torch.testing.assert_close(rolled, straight.roll(4, -1), rtol=1e-3, atol=1e-4)


def test_a_loop_closes(sync):
    """A canvas alike in all its columns gives a picture alike in all of them; decoded flat it has a step."""
    column = torch.randn(1, 4, 8, 1, generator=torch.Generator().manual_seed(0))

    def seam(loop):
        views = fs.WideCanvas((8, 24), (8, 8), 4, loop=loop).project(column.expand(1, 4, 8, 24))
        settings = {"width": 48, "overlap": 8, "num_inference_steps": 1, "loop": loop}
        images = wide(sync, callback_on_step_end=lambda *_: {"latents": views}, **settings).images
        jumps = np.abs(images - np.roll(images, 1, axis=2)).mean((0, 1, 3))
        return jumps[0] - jumps[20:28].max()  # against the middle, where no border is near

    # Not 0: this decoder looks further than the margin, which is one (tiny) window.
    flat = seam(False)
    assert flat > 0.01
    assert seam(True) < 0.1 * flat, flat


def test_a_loop_is_decoded_round_the_seam(sync):
    """Where the seam lies does not matter to the decoder: rolled latents give the rolled picture."""
    from fastsync.pipeline import _decode

    prior = fs.DiffusersPrior(sync.pipe)
    z = torch.randn(1, 4, 8, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight, rolled = _decode(prior, z, (0, 24)), _decode(prior, z.roll(12, -1), (0, 24))
        plain = _decode(prior, z, (0, 0))
    assert straight.shape == plain.shape == (1, 3, 16, 48)
    # Group norms see the margin as well, so equality is up to their statistics; the plain decoder's borders are off.
    difference = (rolled.roll(-24, -1) - straight).abs()
    assert difference[..., :4].mean() < 0.3 * (plain - straight).abs()[..., :4].mean()


@pytest.mark.parametrize("method", ["multidiffusion", "syncvc"])
def test_a_seamless_tile_is_closed_both_ways(sync, method):
    """The tile, rolled with its noise, is the same tile; the decoder sees what lies across each border."""
    z = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    settings = {"height": 24, "width": 24, "overlap": 8, "seed": None, "loop": "xy", "method": method}
    generator = {"generator": torch.Generator().manual_seed(0)}
    tile = wide(sync, latents=z, **settings, **generator)
    assert tile.images.shape == (1, 24, 24, 3)
    if method == "multidiffusion":
        rolled = wide(sync, latents=z.roll((4, 8), (-2, -1)), **settings, **generator)
        torch.testing.assert_close(rolled.latents, tile.latents.roll((4, 8), (-2, -1)), atol=1e-4, rtol=1e-4)
        # Group norms in the decoder see the margin as well.
        np.testing.assert_allclose(rolled.images, np.roll(tile.images, (8, 16), (1, 2)), atol=0.05)
    with pytest.raises(ValueError, match="height must be a multiple of 2 pixels"):
        wide(sync, height=25, loop="y")


def test_a_loop_must_fill_its_cells(sync):
    with pytest.raises(ValueError, match="width must be a multiple of 2 .* got 45: use 44 or 46"):
        wide(sync, width=45, loop=True)


# ---- repeatable -------------------------------------------------------------------------------------------------


def test_seeds_repeat_and_are_recorded(sync):
    out = wide(sync, seed=7)
    assert out.parameters["seed"] == 7
    assert np.array_equal(wide(sync, seed=7).images, out.images)
    assert np.array_equal(wide(sync, seed=None, generator=torch.Generator().manual_seed(7)).images, out.images)
    assert not np.array_equal(wide(sync, seed=8).images, out.images)
    first, second = wide(sync, seed=None), wide(sync, seed=None)
    assert not np.array_equal(first.images, second.images)  # nobody gave a seed: one is drawn, not always the same
    assert np.array_equal(wide(sync, seed=first.parameters["seed"]).images, first.images)


@pytest.mark.parametrize(
    "method", ["multidiffusion", fs.MultiDiffusion("gaussian"), fs.SyncVC(1, lr=0.1, view_order=[2, 0, 1, 3])]
)
def test_parameters_are_enough_to_make_the_picture_again(sync, method):
    out = wide(
        sync, method=method, negative_prompt="a dog", width=np.int64(45), overlap=6, eta=np.float32(0.5),
        guidance_scale=np.float32(3), num_inference_steps=np.int64(2), seed=np.int64(9),
    )  # fmt: skip
    record = json.loads(json.dumps(out.parameters))
    assert record["task"] == "wide" and record["model"] and record["dtype"] == "float32"
    method = fs.task.METHODS[record["method"]](**record["method_settings"])
    again = wide(
        sync,
        method=method,
        **{
            key: record[key]
            for key in (
                "prompt", "negative_prompt", "height", "width", "overlap", "loop", "num_inference_steps",
                "guidance_scale", "eta", "seed",
            )
        },
    )  # fmt: skip
    assert np.array_equal(again.images, out.images)


def test_settings_that_json_cannot_hold_are_described(sync):
    out = wide(sync, method=fs.SyncVC(2, lr=lambda k: 0.1 / (k + 1), rewards=[lambda x, e, i: x.sum()]))
    settings = json.loads(json.dumps(out.parameters))["method_settings"]
    assert settings["lr"] == [0.1, 0.05] and "function" in settings["rewards"][0]


def test_order_and_max_batch_change_the_calls_not_the_picture(sync):
    settings = {"method": fs.SyncVC(1), "width": 40, "overlap": 4, "eta": 0.3}
    rows = []
    handle = sync.pipe.unet.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    batched, each = wide(sync, **settings), len(rows)
    alone = wide(sync, **settings, order="sequential")
    split = wide(sync, **settings, order="wavefront", max_batch=1)
    handle.remove()
    assert max(rows[:each]) > 2 and max(rows[each:]) == 2  # two rows are guidance's two halves
    assert batched.stats.evaluations == alone.stats.evaluations == split.stats.evaluations
    for other in (alone, split):
        np.testing.assert_allclose(other.images, batched.images, atol=1e-4)


# ---- callbacks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["multidiffusion", "syncvc"])
def test_callbacks_follow_diffusers_convention(pipe, sync, method):
    seen, expected = [], []

    def note(log):
        def callback(pipe, step, t, kwargs):
            log.append((pipe, step, int(t), kwargs["latents"].clone()))
            return kwargs

        return callback

    arguments = {"num_inference_steps": 3, "callback_on_step_end": note(expected)}
    pipe("a cat", generator=torch.Generator().manual_seed(0), **arguments)
    wide(sync, width=P, method=method, **{**arguments, "callback_on_step_end": note(seen)})
    assert [s[:3] for s in seen] == [e[:3] for e in expected] and len(seen) == 3
    for got, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(got[3], wanted[3], rtol=1e-4, atol=1e-4)


def test_latents_from_a_callback_are_taken(sync):
    def blank(pipe, step, t, kwargs):
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 1 else {}

    out = wide(sync, callback_on_step_end=blank)
    assert out.views.abs().max() == 0 and out.latents.abs().max() == 0


# ---- loading ----------------------------------------------------------------------------------------------------


def test_from_pretrained_with_half_precision_on_disk(tmp_path, recwarn):
    pipe = tiny.make_pipeline(seed=3)
    rounded = copy.deepcopy(pipe.unet).half().float()
    pipe.unet.half(), pipe.vae.half()
    pipe.save_pretrained(tmp_path)
    stored = (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert stored < 3 * sum(p.numel() for p in pipe.unet.parameters())
    for path in (tmp_path, str(tmp_path)):
        sync = fs.SyncPipeline.from_pretrained(path, device="cpu")
        assert {p.dtype for p in (*sync.pipe.unet.parameters(), *sync.pipe.vae.parameters())} == {torch.float32}
        for got, wanted in zip(sync.pipe.unet.parameters(), rounded.parameters(), strict=True):
            assert torch.equal(got, wanted)
        out = wide(sync)
        assert np.isfinite(out.images).all() and out.parameters["model"] == str(tmp_path)
    assert not [w for w in recwarn if "torch_dtype" in str(w.message)]


def broken(folder, name, content):
    tiny.make_pipeline().save_pretrained(folder)
    (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda folder: folder / "nowhere", "neither a local folder"),
        (lambda folder: "no such/model at/all", "no such/model at/all"),
        (lambda folder: folder, "model_index.json"),
        (lambda folder: broken(folder, "model_index.json", '{"_class_name": "NoPipeline"}'), "NoPipeline"),
        (lambda folder: broken(folder, "model_index.json", "{"), "could not be loaded"),
        (lambda folder: broken(folder, "unet/diffusion_pytorch_model.safetensors", "junk"), "could not be loaded"),
    ],
)
def test_an_unknown_model_is_one_sentence(tmp_path, monkeypatch, make, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError) as caught:
        fs.SyncPipeline.from_pretrained(make(tmp_path), device="cpu")
    message = str(caught.value)
    assert words in message and "from_zoo" in message
    assert "\n" not in message and len(message) < 400, message


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"device": "foo"}, ValueError, "'foo'"),
        ({"dtype": "float32"}, TypeError, "'float32'"),
        ({"dtype": torch.int8}, TypeError, "torch.int8"),
        ({"name_or_path": 5}, TypeError, "got 5"),
        pytest.param(
            {"device": "cuda"}, ValueError, "no CUDA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_of_from_pretrained(tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        fs.SyncPipeline.from_pretrained(**{"name_or_path": tmp_path, **arguments})


# ---- the user's pipeline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["multidiffusion", fs.SyncVC(1)])
def test_the_pipeline_is_left_as_it_was(method):
    pipe = tiny.make_pipeline(scheduler=diffusers.UniPCMultistepScheduler.from_config(
        tiny.make_scheduler().config, disable_corrector=list(range(50))
    ))  # fmt: skip
    pipe.unet.conv_out.requires_grad_(False)
    pipe.vae.train()

    def state():
        parts = [pipe.unet, pipe.vae, pipe.text_encoder]
        return [
            (id(pipe.scheduler), dict(pipe.scheduler.config), pipe.scheduler.num_inference_steps),
            [part.training for part in parts],
            [(p.requires_grad, p.dtype, p.device, p.grad) for part in parts for p in part.parameters()],
            dict(pipe.config),
            pipe.progress_bar(total=1).disable,
        ]

    pipe.scheduler.set_timesteps(7)
    times = pipe.scheduler.timesteps.clone()
    before, weights = state(), copy.deepcopy(pipe.unet.state_dict())
    expected = torch.random.get_rng_state()
    wide(fs.SyncPipeline(pipe), method=method)
    assert state() == before
    assert torch.equal(pipe.scheduler.timesteps, times)
    assert all(torch.equal(w, weights[name]) for name, w in pipe.unet.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), expected)  # nor the global random state


@pytest.mark.parametrize(
    "name",
    ["PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
     "UniPCMultistepScheduler", "DDPMScheduler", "HeunDiscreteScheduler"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pipelines_with_other_schedulers_run_by_ddim(name):
    scheduler = getattr(diffusers, name).from_config(tiny.make_scheduler().config)
    pipe = tiny.make_pipeline(scheduler=scheduler)
    out = wide(fs.SyncPipeline(pipe, solver="ddim"), width=P, num_inference_steps=4)
    assert (out.parameters["scheduler"], out.parameters["solver"]) == (name, "ddim")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    own = pipe("a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="np").images
    np.testing.assert_allclose(out.images, own, atol=1e-5)


@pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pipelines_whose_schedulers_have_another_form_are_refused(name):
    scheduler = getattr(diffusers, name).from_config(tiny.make_scheduler().config)
    with pytest.raises(ValueError, match=f"scheduler {name} is not supported, because .* solver='ddim'"):
        fs.SyncPipeline(tiny.make_pipeline(scheduler=scheduler))


@pytest.mark.parametrize("method", ["multidiffusion", fs.SyncVC(1)])
def test_bfloat16_pipelines_keep_a_float32_canvas(method):
    full = wide(fs.SyncPipeline(tiny.make_pipeline()), method=method)
    pipe = tiny.make_pipeline(dtype=torch.bfloat16)
    inputs = []
    pipe.unet.register_forward_pre_hook(lambda m, args: inputs.append(args[0].dtype))
    out = wide(fs.SyncPipeline(pipe), method=method)
    assert set(inputs) == {torch.bfloat16}
    assert out.latents.dtype == out.views.dtype == torch.float32
    assert out.images.dtype == np.float32 and np.isfinite(out.images).all()
    assert out.parameters["dtype"] == "bfloat16"
    assert out.stats.gradients == full.stats.gradients


def test_a_text_encoder_in_another_precision_is_no_obstacle():
    pipe = tiny.make_pipeline()
    pipe.unet.to(torch.bfloat16)
    assert np.isfinite(wide(fs.SyncPipeline(pipe), method=fs.SyncVC(1)).images).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_inside_no_grad_and_inference_mode(sync, mode):
    expected = wide(sync, method=fs.SyncVC(1))
    with mode():
        out = wide(sync, method=fs.SyncVC(1))
    assert np.array_equal(out.images, expected.images)


def test_no_warnings_of_our_making(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide(fs.SyncPipeline(pipe), method=fs.SyncVC(1))


def test_progress_bar_on_request_only(sync, capsys):
    wide(sync, progress=False)
    assert capsys.readouterr().err == ""
    wide(sync, progress=True)
    assert "MultiDiffusion: 100%" in capsys.readouterr().err


def test_the_safety_checker_is_not_run():
    def refuse(*args, **kwargs):
        raise AssertionError

    pipe = tiny.make_pipeline()
    pipe.safety_checker = refuse
    assert np.isfinite(wide(fs.SyncPipeline(pipe)).images).all()
    assert "safety checker is not run" in " ".join(fs.SyncPipeline.__doc__.split())


def test_xformers_is_never_imported():
    for path in Path(fs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "xformers" for name in names), path


# ---- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"height": 15}, ["height", "15", "16"]),
        ({"width": -28}, ["width", "-28"]),
        ({"width": 28.5}, ["width", "28.5", "whole number"]),
        ({"overlap": 16}, ["overlap", "16", "14"]),
        ({"overlap": 15}, ["overlap", "15", "14"]),
        ({"overlap": -1}, ["overlap", "-1"]),
        ({"loop": 1}, ["loop", "1", "True or False"]),
        ({"method": "magic"}, ["method", "'magic'", "'syncvc'"]),
        ({"method": fs.SyncVC}, ["SyncVC", "instance"]),
        ({"method": None}, ["method", "None"]),
        ({"output_type": "jpeg"}, ["output_type", "'jpeg'", "'pil'"]),
        ({"generator": torch.Generator()}, ["seed and generator"]),
        ({"generator": 5, "seed": None}, ["generator", "5", "torch.Generator"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 0.5}, ["seed", "0.5"]),
        ({"seed": 2**64}, ["seed", "2**64"]),
        ({"prompt": 5}, ["prompt", "5"]),
        ({"prompt": []}, ["prompt", "0"]),
        ({"prompt": ["a", "b", "c"]}, ["prompt", "2", "3"]),
        ({"prompt": ["a", 5]}, ["prompt", "5"]),
        ({"negative_prompt": 5}, ["negative_prompt", "5"]),
        ({"guidance_scale": "7"}, ["guidance_scale", "'7'"]),
        ({"guidance_scale": float("nan")}, ["guidance_scale", "nan"]),
        ({"num_inference_steps": 0}, ["num_inference_steps", "0"]),
        ({"num_inference_steps": 2000}, ["num_inference_steps", "2000"]),
        ({"eta": 2}, ["eta", "2"]),
        ({"latents": torch.zeros(1, 3, 8, 14)}, ["latents", "[1, 3, 8, 14]", "[1, 4, 8, 14]"]),
        ({"latents": torch.full((1, 4, 8, 14), float("inf"))}, ["latents", "infinite"]),
        ({"order": "batched", "method": "syncvc"}, []),
        ({"order": "zigzag"}, ["order", "'zigzag'"]),
        ({"max_batch": 0}, ["max_batch", "0"]),
        ({"callback_on_step_end": 5}, ["callback_on_step_end", "5"]),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # addresses differ from process to process
)
def test_bad_input_is_refused_before_the_network_is_called(sync, arguments, words):
    def refuse(*_):
        raise AssertionError("the network was called")

    handle = sync.pipe.unet.register_forward_pre_hook(refuse)
    try:
        with pytest.raises((ValueError, TypeError)) as caught:
            wide(sync, **{"overlap": 4, **arguments})
    finally:
        handle.remove()
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 300 and message.endswith("."), message
    assert all(word in message for word in words), message


def test_a_wrong_default_guidance_is_refused(pipe):
    with pytest.raises(TypeError, match="guidance_scale"):
        fs.SyncPipeline(pipe, guidance_scale="high")
