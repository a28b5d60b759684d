"""MaskCanvas: regions, what reads what, and the methods on it."""

import pytest
import torch
from diffusers import DDIMScheduler

import fastsync as fs
from fastsync.canvases import MaskCanvas
from fastsync.methods.coupling import coupling_table


def masks(kind: str = "hard") -> torch.Tensor:
    m = torch.zeros(2, 1, 6, 8)
    m[0, :, 1:4, 1:4] = 1.0
    m[1, :, 2:6, 3:7] = 1.0
    return m * 0.6 if kind == "soft" else m


def prior(channels: int = 2, prediction: str = "epsilon", **kw) -> fs.FunctionPrior:
    """Draws every view to its condition: a Gaussian around it, whose prediction is known."""
    scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction, timestep_spacing="trailing", **kw)
    abar = scheduler.alphas_cumprod.double()

    def eps(x, t, cond):
        a, b = (f[:, None, None, None].to(x) for f in (abar[t].sqrt(), (1 - abar[t]).sqrt()))
        x0 = cond.to(x) + a * 0.25 / (a**2 * 0.25 + b**2) * (x - a * cond.to(x))
        return (x - a * x0) / b

    return fs.FunctionPrior(eps, scheduler, view_shape=(channels, 6, 8))


def cond(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64)[:, None, None, None].expand(n, 2, 6, 8) - 1


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_regions_cover_everything_and_merge_is_their_weighted_mean(kind: str) -> None:
    canvas = MaskCanvas(masks(kind))
    assert canvas.num_views == 3 and canvas.view_shape == (6, 8)
    assert (canvas.coverage > 0).all()
    views = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    m = masks(kind).double()
    weights = torch.cat([1 - m.amax(0, keepdim=True), m])
    expected = (weights * views).sum(0) / weights.sum(0)
    torch.testing.assert_close(canvas.merge(views)[0], expected)
    z = torch.randn(1, 2, 6, 8)
    torch.testing.assert_close(canvas.merge(canvas.project(z)), z)
    assert torch.equal(canvas.adjoint(views), views.sum(0, keepdim=True))


def test_merge_keeps_the_previous_where_weights_vanish() -> None:
    canvas = MaskCanvas(masks())
    weights = torch.zeros(3, 1, 6, 8)
    weights[1] = 1.0
    previous = torch.full((1, 2, 6, 8), 7.0)
    merged = canvas.merge(torch.ones(3, 2, 6, 8), weights, previous)
    assert torch.equal(merged, torch.where(masks()[:1] > 0, torch.ones(()), previous))


def test_later_masks_lie_over_earlier_ones() -> None:
    canvas = MaskCanvas(masks())
    views = torch.arange(3.0)[:, None, None, None].expand(3, 2, 6, 8)
    painted = canvas.composite(views, [0, 1, 2])[0, 0]
    assert painted[0, 0] == 0 and painted[1, 1] == 1 and painted[3, 3] == 2
    assert torch.equal(painted, canvas.composite(views, [1, 0, 2])[0, 0])


def test_chained_has_the_whole_as_one_view_more_and_it_reads_the_painting() -> None:
    canvas = MaskCanvas(masks()).chained()
    assert canvas.num_views == 4
    near = canvas.neighbours([0, 1, 2, 3])
    assert near.sources == [(), (0,), (0,), (0, 1, 2)]
    assert torch.equal(near.mask(1), 1 - masks()[0])
    assert torch.equal(near.mask(3), torch.ones(1, 6, 8))
    views = torch.arange(4.0)[:, None, None, None].expand(4, 2, 6, 8)
    expected = MaskCanvas(masks()).composite(views[:3], [0, 1, 2])[0]
    assert torch.equal(near.target(3, views), expected)
    assert torch.equal(canvas.composite(views, [0, 1, 2, 3]), views[3:])
    assert torch.equal(canvas.merge(views), views[3:])


def test_soft_masks_pull_as_hard_as_they_are() -> None:
    near = MaskCanvas(masks("soft")).chained().neighbours([0, 1, 2, 3])
    torch.testing.assert_close(near.mask(1)[0, 2, 2], torch.tensor(0.4))
    # Under the soft mask 1 alone its view shows 0.6 of the whole, the background 0.4.
    torch.testing.assert_close(near.mask(3)[0, 1, 1], torch.tensor(0.6))
    assert near.owner[3, 1, 1] == 1 and near.owner[3, 0, 0] == 0


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_syncsde_is_the_three_trajectories_of_the_paper(kind: str) -> None:
    """Background, foreground and whole, stepped by hand with the masks as they are."""
    mask, latents = masks(kind)[:1].double(), torch.randn(1, 2, 6, 8, dtype=torch.float64)
    p, c = prior(), cond(3)
    out = fs.sample(
        p, MaskCanvas(mask), fs.SyncSDE(), cond=c, num_inference_steps=8, latents=latents, guidance_scale=1.0
    )
    assert out.views.shape[0] == 3
    table = p.schedule.steps(8)
    pull, _ = coupling_table(table, 5.0, "published")
    m = mask[0]
    back, front, whole = (latents[0].clone() for _ in range(3))
    for k in range(8):
        t, a, b = table.timesteps[k], table.a[k], table.b[k]
        states = torch.stack([back, front, whole])
        eps = p.predict(states, t.expand(3), c, None, 1.0).eps
        eps[1] += (1 - m) * (front - back) * pull[k]
        share = torch.maximum(m, 1 - m)
        eps[2] += share * (whole - torch.where(m > 1 - m, front, back)) * pull[k]
        back, front, whole = (
            table.a_next[k] * (x - b * e) / a + table.direction[k] * e for x, e in zip(states, eps, strict=True)
        )
    torch.testing.assert_close(out.views, torch.stack([back, front, whole]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.canvas[0], whole, rtol=1e-9, atol=1e-9)


def test_multidiffusion_on_regions_gives_each_its_condition() -> None:
    out = fs.sample(
        prior(), MaskCanvas(masks()), fs.MultiDiffusion(), cond=cond(3), num_inference_steps=20, guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    exclusive = [masks()[:, 0].amax(0) == 0, (masks()[0, 0] > 0) & (masks()[1, 0] == 0), masks()[1, 0] > masks()[0, 0]]
    for value, where in zip((-1.0, 0.0, 1.0), exclusive, strict=True):
        assert abs(float(out.canvas[0, :, where].mean()) - value) < 0.35
    assert out.views.shape[0] == 3 and out.stats.evaluations == 60


@pytest.mark.parametrize("max_batch", [None, 1])
def test_bootstrapping_steps_foregrounds_from_a_noised_flat_colour(max_batch: int | None) -> None:
    seen: list[torch.Tensor] = []
    p = prior()
    network = p.eps_fn

    def watched(x, t, c):
        seen.append(x.clone())
        return network(x, t, c)

    p.eps_fn = watched
    m = masks()
    steps, boot = 4, 2
    out = fs.sample(
        p, MaskCanvas(m), fs.MultiDiffusion(bootstrapping=boot), cond=cond(3), num_inference_steps=steps,
        guidance_scale=1.0, latents=torch.zeros(1, 2, 6, 8, dtype=torch.float64),
        generator=torch.Generator().manual_seed(0), max_batch=max_batch,
    )  # fmt: skip
    asked = torch.cat(seen).reshape(steps, 3, 2, 6, 8)
    table = p.schedule.steps(steps)
    generator = torch.Generator().manual_seed(0)
    for k in range(boot):
        colour = 2 * torch.special.ndtr(torch.randn(1, 2, 1, 1, generator=generator, dtype=torch.float64)) - 1
        noise = torch.randn(1, 2, 6, 8, generator=generator, dtype=torch.float64)
        backdrop = table.a[k] * colour + table.b[k] * noise
        for view in (1, 2):
            outside = (m[view - 1] == 0).expand(2, 6, 8)
            torch.testing.assert_close(asked[k, view][outside], backdrop[0][outside])
            inside = ~outside
            torch.testing.assert_close(asked[k, view][inside], asked[k, 0][inside])
    assert torch.equal(asked[boot, 1], asked[boot, 0])
    assert out.stats.evaluations == 3 * steps


@pytest.mark.parametrize("method", [fs.SyncVC(iterations=2), fs.SyncSDE()])
def test_orders_agree_on_masks(method: fs.Method) -> None:
    results = [
        fs.sample(
            prior(), MaskCanvas(masks("soft")), method, cond=cond(4), num_inference_steps=5, guidance_scale=1.0,
            latents=torch.randn(1, 2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
            order=order,
        ).canvas
        for order in method.orders
    ]  # fmt: skip
    for other in results[1:]:
        assert float((other - results[0]).norm() / results[0].norm()) < 1e-10


def test_syncvc_draws_the_whole_to_its_parts() -> None:
    """With its own condition as far off as one likes, the whole picture shows the regions'."""
    c = cond(3).clone()
    c[2] = 0.0
    mask = masks()[:1]

    def distance(method: fs.Method) -> float:
        out = fs.sample(
            prior(), MaskCanvas(mask), method, cond=c, num_inference_steps=20, guidance_scale=1.0,
            latents=torch.randn(1, 2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        )  # fmt: skip
        painted = torch.lerp(out.views[0], out.views[1], mask[0].double())
        return float((out.views[2] - painted).abs().mean())

    free = distance(fs.SyncVC(iterations=0, inv_lambda=0.0))
    assert distance(fs.SyncVC(lr=0.1)) < 0.5 * free


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.ones(6, 8), r"masks must be a tensor \[K, 1, H, W\]"),
        (torch.full((1, 1, 6, 8), 255.0), "masks must lie in"),
        (torch.zeros(1, 1, 6, 8), "mask 0 is empty"),
        (torch.full((1, 1, 6, 8), float("nan")), "NaN"),
        ("mask.png", r"masks must be a tensor \[K, 1, H, W\]"),
    ],
)
def test_bad_masks_get_a_sentence(given: object, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        MaskCanvas(given)  # type: ignore[arg-type]


def test_wrong_shapes_and_conditions_get_a_sentence() -> None:
    canvas = MaskCanvas(masks() > 0)  # bool is legal
    with pytest.raises(ValueError, match="z must be a canvas"):
        canvas.project(torch.zeros(1, 2, 6, 7))
    with pytest.raises(ValueError, match="views must be"):
        canvas.merge(torch.zeros(2, 2, 6, 8))
    with pytest.raises(ValueError, match="weights must be"):
        canvas.merge(torch.zeros(3, 2, 6, 8), torch.ones(2, 1, 6, 8))
    with pytest.raises(ValueError, match="4 .one a view"):
        fs.sample(prior(), canvas, fs.SyncSDE(), cond=cond(3), num_inference_steps=2)
    with pytest.raises(ValueError, match="has none"):
        wide = fs.WideCanvas((6, 12), (6, 8), 4)
        fs.sample(prior(), wide, fs.MultiDiffusion(bootstrapping=2), cond=cond(1), num_inference_steps=2)
