"""Every method runs on every probed family: finite, and at the expected cost."""

import pytest
import torch
from families import FAMILIES
from families.asking import probed
from families.expected import REPLAYED

import fastsync as fs

N, STEPS, ITERATIONS = 3, 2, 1
ROWS = {  # rows of a run, without guidance
    "multidiffusion": STEPS * N,
    "synctweedies": STEPS * N,
    "syncsde": STEPS * N,
    "syncvc": STEPS * (1 + (N - 1) * (1 + ITERATIONS)),  # the first view follows nobody
}
METHODS = {
    "multidiffusion": fs.MultiDiffusion(),
    "synctweedies": fs.SyncTweedies(),
    "syncsde": fs.SyncSDE(coupling="stable"),
    "syncvc": fs.SyncVC(iterations=ITERATIONS),
    "stochsync": fs.StochSync(steps=2),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_every_method_runs(name, outcome):
    prior, told = probed(name)
    c, h, w = prior.view_shape
    canvas, asked = fs.WideCanvas((h, 2 * w), (h, w), w // 2), []
    last = getattr(prior.pipe, prior._learnt.templates[-1].network)

    def count(module, args, kwargs):
        given = next(v for v in [*args, *kwargs.values()] if isinstance(v, (list, torch.Tensor)))
        asked.append(len(given))

    handle = last.register_forward_pre_hook(count, with_kwargs=True)
    halves = 1 if told.uncond is None else 2
    start = None if told.start is None else told.start.expand(N, -1, -1, -1)
    steps = STEPS if told.start is None else FAMILIES[name].steps  # whose first ones are left out
    taken = len(prior.steps(steps))
    asked.clear()
    for method, rule in METHODS.items():
        if method == "stochsync" and start is not None:
            continue
        out = fs.sample(
            prior, canvas, rule, cond=told.cond, uncond=told.uncond, guidance_scale=told.guidance,
            num_inference_steps=steps, start=start, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert out.views.shape == (N, c, h, w) and torch.isfinite(out.canvas).all() and out.canvas.std() > 0.01
        assert sum(asked) == out.stats.evaluations > 0, method
        if method in ROWS:
            assert out.stats.evaluations == halves * ROWS[method] * taken // STEPS, method
        assert (out.stats.gradients > 0) == (method == "syncvc")
        asked.clear()
        outcome(name, method=method)
    handle.remove()
