"""`SyncPipeline.texture` on tiny real pipelines: what it samples, what it gives back, what it refuses."""

import json

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
import trimesh
from PIL import Image
from shapes import cube, plates, sphere

import fastsync as fs
from fastsync.geometry import Camera, depth_maps, see
from fastsync.priors.backdrop import BackdropPrior
from fastsync.texture import bake, nearest_views

SETTINGS = {"num_inference_steps": 3, "seed": 0, "progress": False, "guidance_scale": 3.0, "texture_size": 48}
AROUND = [(0.0, 0.0), (120.0, 0.0), (240.0, 20.0)]
METHODS = ["syncvc", "syncsde", "synctweedies", fs.StochSync(steps=6), "independent"]


@pytest.fixture(scope="module")
def sync():
    return fs.SyncPipeline(tiny.make_control_pipeline())


@pytest.mark.parametrize("method", METHODS, ids=[m if isinstance(m, str) else "stochsync" for m in METHODS])
def test_every_method_that_keeps_noise_white_paints_a_mesh(sync, method):
    out = sync.texture(cube(), "a cat", cameras=AROUND, method=method, **SETTINGS)
    assert out.images[0].size == (48, 48) and np.array(out.images[0]).std() > 1
    assert [picture.size for picture in out.pictures] == [(tiny.PIXELS, tiny.PIXELS)] * 3
    again = sync.texture(cube(), "a cat", cameras=AROUND, method=method, **SETTINGS)
    assert np.array_equal(np.array(out.images[0]), np.array(again.images[0]))
    assert json.loads(json.dumps(out.parameters))["task"] == "texture"
    assert out.textured.texture.tobytes() == out.images[0].tobytes()


def test_it_is_sample_with_depth_backdrop_and_sides(sync):
    """The task adds nothing of its own: the same from the package's parts."""
    out = sync.texture(sphere(12, 24), "a cat", cameras=AROUND, method="synctweedies", **SETTINGS)
    prior = fs.priors.wrap(sync.pipe)
    generator = torch.Generator().manual_seed(0)
    cond, uncond = prior.encode_prompt([f"a cat, {side} view" for side in ("front", "side", "side")])
    colours = 2 * torch.rand(3, 3, 1, 1, generator=generator) - 1
    fine = see(sphere(12, 24), [Camera(*at) for at in AROUND], (tiny.PIXELS, tiny.PIXELS))
    beside = torch.nn.functional.max_pool2d(fine.foreground[:, None].float(), tiny.SCALE) == 0
    grounds = prior.encode(colours.expand(-1, -1, tiny.PIXELS, tiny.PIXELS)).detach()
    over = BackdropPrior(prior)
    conditions = [over.with_backdrop(c, grounds, beside) for c in prior.with_control(cond, uncond, depth_maps(fine))]
    canvas = fs.MeshCanvas(sphere(12, 24), AROUND, view_size=(tiny.CELLS, tiny.CELLS))
    expected = fs.sample(
        over, canvas, fs.SyncTweedies(), cond=conditions[0], uncond=conditions[1], guidance_scale=3.0,
        num_inference_steps=3, generator=generator,
    )  # fmt: skip
    torch.testing.assert_close(out.views, expected.views)
    mask = beside.expand_as(out.views)
    # What is beside the mesh has come down to its flat colour.
    assert float((out.views - grounds)[mask].abs().max()) < 0.2


@pytest.mark.parametrize("method", ["syncvc", "synctweedies"])
def test_agreement_in_pixels_or_in_latents(sync, method):
    given = {"cameras": AROUND, "method": method, **SETTINGS}
    default, latents, pixels = (
        sync.texture(sphere(12, 24), "a cat", agreement=agreement, **given)
        for agreement in ("auto", "latents", "pixels")
    )
    assert np.array_equal(np.array(default.images[0]), np.array(latents.images[0]))
    assert not np.array_equal(np.array(pixels.images[0]), np.array(latents.images[0]))
    assert [out.parameters["agreement"] for out in (default, latents, pixels)] == ["latents", "latents", "pixels"]
    settings = pixels.parameters["method_settings"]
    if method == "syncvc":
        assert settings["reward_weight"] == 0 and "SurfaceOverlap" in settings["rewards"][0]
        assert settings["iterations"] == latents.parameters["method_settings"]["iterations"] == 3
    else:
        assert pixels.canvas.window == (tiny.PIXELS, tiny.PIXELS) and latents.canvas.window == (tiny.CELLS, tiny.CELLS)


@pytest.mark.parametrize("agreement", ["latents", "pixels"])
def test_stochastic_steps_draw_noise_of_the_views_own_units(sync, agreement):
    given = {"cameras": AROUND, "method": "synctweedies", "eta": 1.0, "agreement": agreement, **SETTINGS}
    one, other = (sync.texture(cube(), "a cat", **given) for _ in range(2))
    assert np.array_equal(np.array(one.images[0]), np.array(other.images[0]))


def test_parameters_say_what_was_done_in_plain_json(sync):
    angles = [(a, 15) for a in np.arange(0, 360, 120)]
    given = {**SETTINGS, "texture_size": np.int64(32), "conditioning_scale": np.float32(0.5)}
    recorded = {
        method: json.loads(json.dumps(sync.texture(cube(), "a cat", cameras=angles, method=method, **given).parameters))
        for method in ("independent", "synctweedies")
    }
    assert recorded["independent"]["cameras"][1] == [120.0, 15.0, 3.0, 40.0, False]
    assert {row["agreement"] for row in recorded.values()} == {"latents"}
    stoch = sync.texture(cube(), "a cat", cameras=AROUND, method=fs.StochSync(steps=6), **SETTINGS)
    assert stoch.parameters["agreement"] == "pixels"


def test_presets_and_methods_of_your_own_are_left_as_they_are(sync):
    given = {"cameras": AROUND, **SETTINGS}
    fast = sync.texture(cube(), "a cat", preset="fast", agreement="pixels", **given).parameters["method_settings"]
    assert fast["iterations"] == 1 and fast["control_window"] is not None
    own = sync.texture(cube(), "a cat", method=fs.SyncVC(iterations=1), **given)
    assert own.parameters["method_settings"]["reward_weight"] == 1.0 and own.parameters["agreement"] == "latents"
    with pytest.raises(ValueError, match="agreement='pixels' is for method='syncvc'.*got SyncVC"):
        sync.texture(cube(), "a cat", method=fs.SyncVC(iterations=1), agreement="pixels", **given)


def test_depth_control_reaches_the_views(sync):
    both = [
        sync.texture(mesh, "a cat", cameras=[(0.0, 0.0), (30.0, 0.0)], method="independent", **SETTINGS).views
        for mesh in (plates(0.0), plates(0.0, -0.4))
    ]
    assert not torch.allclose(both[0], both[1])


def test_a_prompt_for_each_camera_gets_no_suffix(sync):
    texts = ["a cat, front view", "a cat, side view", "a cat, side view"]
    named = sync.texture(cube(), texts, cameras=AROUND, method="independent", **SETTINGS)
    one = sync.texture(cube(), "a cat", cameras=AROUND, method="independent", **SETTINGS)
    bare = sync.texture(cube(), "a cat", cameras=AROUND, method="independent", view_prompts=False, **SETTINGS)
    assert torch.equal(named.views, one.views) and not torch.equal(bare.views, one.views)


def test_files_pipelines_of_depth_and_shared_attention(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.stl")
    depth = fs.SyncPipeline(tiny.make_depth_pipeline())
    out = depth.texture(tmp_path / "box.stl", "a cat", cameras=AROUND, method="synctweedies", **SETTINGS)
    assert out.parameters["mesh"] == str(tmp_path / "box.stl")
    out.textured.save(tmp_path / "out.glb")
    assert len(trimesh.load_scene(tmp_path / "out.glb").dump()[0].faces) == 12
    shared = depth.texture(
        cube(), "a cat", cameras=AROUND, method="synctweedies", shared_attention=True, max_batch=None, **SETTINGS
    )
    assert not torch.equal(shared.views, depth.texture(cube(), "a cat", cameras=AROUND, **SETTINGS).views)
    with pytest.raises(ValueError, match="each of the 3 views once in every network call"):
        depth.texture(cube(), "a cat", cameras=AROUND, shared_attention=True, **SETTINGS)


def test_neighbours_are_the_views_from_the_nearest_sides():
    assert nearest_views([Camera(a) for a in (0, 45, 80, 180)]) == [[1, 2], [2, 0], [1, 0], [2, 1]]
    assert nearest_views([Camera(0)]) == [[]]


@pytest.mark.parametrize("output_type, kind", [("np", np.ndarray), ("pt", torch.Tensor)])
def test_output_types(sync, output_type, kind):
    out = sync.texture(cube(), "a cat", cameras=AROUND, method="independent", output_type=output_type, **SETTINGS)
    assert isinstance(out.images, kind) and isinstance(out.textured.texture, Image.Image)


# ---- baking -------------------------------------------------------------------------------------------------------


def test_colours_of_the_background_stay_out_of_the_texture():
    """Views of a grey globe whose outermost pixels took on the background's colour, as a decoder's do."""
    canvas = fs.MeshCanvas(sphere(), view_size=64)
    views = torch.zeros(10, 3, 64, 64)
    mixed = canvas.sight.beside_edges(2)[:, None] | ~canvas.foreground
    views[:, 0:1][mixed] = 1.0
    side = canvas.size[0]
    texture = bake(canvas, views, side, margin=8)
    clear = canvas.merge((~mixed).float(), (~mixed).float()) > 0.99  # what some other pixel shows
    assert float(clear.float().mean()) > 0.6
    assert float(texture[:, :1][clear].abs().mean()) < 0.005
    assert float(canvas.bake(views)[:, :1][clear].abs().mean()) > 0.01


def test_edges_are_silhouettes_and_steps_in_depth():
    sight = see(plates(0.0, -0.5, side=0.6), [Camera()], (48, 48))
    assert not bool(sight.beside_edges(1)[0, 20:28, 20:28].any())
    foreground = sight.foreground[0]
    inner = -torch.nn.functional.max_pool2d(-foreground[None].float(), 3, 1, 1)[0] > 0
    assert torch.equal(sight.beside_edges(1)[0], foreground & ~_eroded(foreground))
    assert bool((sight.beside_edges(2)[0] >= (foreground & ~inner)).all())
    step = see(plates(0.4, -0.4, side=0.5), [Camera(25.0, 0.0)], (64, 64))
    depth = step.depth[0]
    jump = (depth[32, 1:] - depth[32, :-1]).abs()
    inside = torch.isfinite(jump) & (jump > 0.3)
    assert bool(step.beside_edges(1)[0, 32, 1:][inside].all()) and bool(inside.any())


def _eroded(mask):
    """Less the pixels that have one beside, above or below that is not in it."""
    padded = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0] > 0
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"texture_size": 4}, "texture_size must be at least 16, got 4"),
        ({"texture_size": 10000}, "texture_size must be at most 8192"),
        ({"view_prompts": "yes"}, "view_prompts must be True or False"),
        ({"reunwrap": 1}, "reunwrap must be True or False"),
        ({"rasterizer": "opengl"}, "rasterizer must be"),
        ({"agreement": "words"}, "agreement must be"),
        ({"conditioning_scale": "much"}, "conditioning_scale must be"),
        ({"cameras": 8}, "cameras must be a list"),
        ({"prompt": ["a", "b"]}, "prompt must be one or 3 strings .one a camera."),
        ({"mesh": "no/such.glb"}, "there is no mesh file"),
        ({"method": "multidiffusion"}, "MultiDiffusion merges noisy states"),
        ({"output_type": "latent"}, "output_type must be 'pil', 'np' or 'pt'"),
        ({"size": 3}, "unexpected keyword argument 'size'"),
    ],
)
def test_bad_input_is_one_sentence(sync, change, message):
    given = {"mesh": cube(), "prompt": "a cat", "cameras": AROUND, "method": "independent", **SETTINGS, **change}
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        sync.texture(given.pop("mesh"), given.pop("prompt"), **given)


def test_a_model_that_sees_no_depth_is_refused():
    with pytest.raises(ValueError, match=r"texture\(\) needs a model that is shown the mesh's depth.*scenes-depth"):
        fs.SyncPipeline(tiny.make_pipeline()).texture(cube(), "a cat", **SETTINGS)
