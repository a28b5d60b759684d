"""Views whose self-attention also sees their neighbours, against attention written out."""

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors.shared_attention import SharedAttention

CANVAS = fs.WideCanvas((8, 20), (8, 8), 6)
ALONE = [[0], [1], [2]]
RAGGED = [[1], [], [0, 1]]
DEVICE = torch.device("cpu")


def controlled(prior):
    cond, uncond = prior.encode_prompt("a cat", "grey")
    if not prior.takes_control:
        return cond, uncond
    depth = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return prior.with_control(cond, uncond, depth)


def sampled(prior, method=None, **settings):
    cond, uncond = controlled(prior)
    return fs.sample(
        prior, CANVAS, method or fs.SyncTweedies(), cond=cond, uncond=uncond, guidance_scale=4.0,
        num_inference_steps=3, latents=randn(1, 4, 8, 20, dtype=prior.dtype), **settings,
    )  # fmt: skip


MAKERS = [tiny.make_pipeline, tiny.make_control_pipeline, tiny.make_depth_pipeline]


@pytest.mark.parametrize("make", MAKERS, ids=["plain", "controlnet", "depth"])
def test_views_that_see_themselves_only_are_plain(make):
    pipe = make(dtype=torch.float64)
    expected = sampled(priors.wrap(pipe))
    for alone in (ALONE, [[], [], []]):
        out = sampled(priors.wrap(pipe, neighbours=alone))
        assert relative(out.views, expected.views) < 1e-10
        assert out.stats.evaluations == expected.stats.evaluations and out.stats.calls == expected.stats.calls
    assert relative(sampled(priors.wrap(pipe, neighbours=priors.view_ring(3))).views, expected.views) > 1e-3


def reference(attn, x, seen):
    """Each row of x [N, S, D] over the rows that it sees, softmax and sums written out."""
    out = []
    for i, states in enumerate(x):
        around = torch.cat([x[j] for j in seen[i]])
        q, k, v = (
            layer(s).unflatten(-1, (attn.heads, -1)).transpose(0, 1)
            for layer, s in ((attn.to_q, states), (attn.to_k, around), (attn.to_v, around))
        )
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        out.append(attn.to_out[0]((weights @ v).transpose(0, 1).flatten(1)))
    return torch.stack(out)


@pytest.mark.parametrize(
    "neighbours, seen", [(priors.view_ring(3), [[0, 2, 1], [1, 0, 2], [2, 1, 0]]), (RAGGED, [[0, 1], [1], [2, 0, 1]])]
)
def test_a_layer_against_attention_written_out(neighbours, seen):
    unet = tiny.make_unet().double()
    attn = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    x = randn(6, 16, 16).requires_grad_()
    with SharedAttention(unet, neighbours).on(DEVICE):
        out = attn(x)
    expected = torch.cat([reference(attn, half, seen) for half in x.split(3)])  # no half sees the other
    assert relative(out.detach(), expected.detach()) < 1e-12
    weights = randn(*out.shape, seed=1)
    got, wanted = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (out, expected))
    assert relative(got, wanted) < 1e-12


def test_gradients_go_to_what_a_view_sees():
    prior = priors.wrap(tiny.make_pipeline(), neighbours=RAGGED)
    x, t = torch.randn(3, 4, 8, 8, requires_grad=True), torch.tensor([500] * 3)
    with prior.sampling():
        cond, uncond = prior.prepare_conditions(
            *(fs.Conditions({"text": c}).select(range(3)) for c in controlled(prior)), 3
        )
        for view, seen in enumerate([[0, 1], [1], [0, 1, 2]]):
            raw = prior.raw(x, t, cond, uncond)
            [gradient] = torch.autograd.grad(raw[3 + view].sum(), x)
            assert gradient.flatten(1).any(1).nonzero()[:, 0].tolist() == seen


@pytest.mark.parametrize("checkpointed", [False, True])
def test_rows_may_come_in_any_order(checkpointed):
    prior = priors.wrap(tiny.make_pipeline(dtype=torch.float64), neighbours=RAGGED)
    if checkpointed:
        prior.pipe.unet.enable_gradient_checkpointing()
    x, t, order = randn(3, 4, 8, 8), torch.tensor([800, 500, 20]), torch.tensor([2, 0, 1])

    def work(rows):
        given = [c.select(rows.tolist()) for c in prepared]
        leaf = x[rows].requires_grad_()
        raw = prior.raw(leaf, t[rows], *given)
        both = [raw.detach().unflatten(0, (2, 3)), torch.autograd.grad(raw.square().sum(), leaf)[0]]
        single = prior.raw(x[rows], t[rows], given[0], None).detach()
        assert relative(single, both[0][1]) < 1e-10  # a half that is called alone
        return both

    with prior.sampling():
        prepared = prior.prepare_conditions(*(fs.Conditions({"text": c.repeat(3, 1, 1)}) for c in controlled(prior)), 3)
        raw, gradient = work(torch.arange(3))
        other, other_gradient = work(order)
    assert relative(other, raw[:, order]) < 1e-10 and relative(other_gradient, gradient[order]) < 1e-10


def test_batches_of_a_fixed_size_are_the_same():
    prior = priors.wrap(tiny.make_pipeline(), neighbours=priors.view_ring(3))
    expected = sampled(prior)
    out = sampled(prior, fixed_batches=True)
    assert relative(out.views, expected.views) < 1e-6 and out.stats.padded == 0


@pytest.mark.parametrize(
    "method, settings",
    [
        (fs.SyncTweedies(), {"order": "sequential"}),
        (fs.SyncTweedies(), {"max_batch": 2}),
        (fs.SyncTweedies(), {"max_batch": 2, "fixed_batches": True}),
        (fs.SyncVC(iterations=1), {}),
        (fs.StochSync(steps=3), {}),
        (fs.StochSync(steps=3), {"fixed_batches": True}),
    ],
    ids=["sequential", "split", "split-padded", "syncvc", "stochsync", "stochsync-padded"],
)
def test_calls_without_all_views_are_refused(method, settings):
    prior = priors.wrap(tiny.make_pipeline(), neighbours=priors.view_ring(3))
    with pytest.raises(ValueError, match=r"each of the 3 views once .* order='batched' and max_batch=None") as caught:
        sampled(prior, method, **settings)
    assert len(str(caught.value)) < 300


def test_processors_are_given_back():
    pipe = tiny.make_pipeline()
    layers = [module for module in pipe.unet.modules() if hasattr(module, "set_processor")]
    own, seen = [layer.processor for layer in layers], []
    prior = priors.wrap(pipe, neighbours=priors.view_ring(3), runtime=priors.Runtime.of(pipe, attention="sdpa"))
    handle = pipe.unet.register_forward_hook(lambda *_: seen.append([layer.processor for layer in layers]))
    sampled(prior)
    handle.remove()
    assert any(now is not before for now, before in zip(seen[0], own, strict=True))
    assert [layer.processor for layer in layers] == own

    def fail(*_):
        raise KeyboardInterrupt

    handle = pipe.unet.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        sampled(prior)
    handle.remove()
    assert [layer.processor for layer in layers] == own
    cond, _ = prior.encode_prompt("a cat")  # outside of a run it is the plain pipeline
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(prior.raw(x, t, cond, None), priors.wrap(pipe).raw(x, t, cond, None))


def test_view_ring():
    assert priors.view_ring(4) == [[3, 1], [0, 2], [1, 3], [2, 0]]
    assert priors.view_ring(1) == [[0, 0]]


@pytest.mark.parametrize(
    "make, neighbours, error, words",
    [
        (tiny.make_pipeline, [], TypeError, ["neighbours", "view_ring"]),
        (tiny.make_pipeline, "ring", TypeError, ["neighbours", "'ring'"]),
        (tiny.make_pipeline, [[0], 1], TypeError, ["neighbours[1]", "got 1"]),
        (tiny.make_pipeline, [[0], [2]], ValueError, ["neighbours[1]", "0 to 1", "got 2"]),
        (tiny.make_pipeline, [[-1], [0]], ValueError, ["neighbours[0]", "-1"]),
        (tiny.make_pipeline, priors.view_ring(4), ValueError, ["4 views", "canvas has 3 views"]),
        (tiny.make_pixel_pipeline, priors.view_ring(3), ValueError, ["IFPipeline", "neighbours=None"]),
    ],
)
def test_sentences(make, neighbours, error, words):
    with pytest.raises(error) as caught:
        sampled(priors.wrap(make(), neighbours=neighbours))
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message and len(message) < 300


def test_labels_are_needed_while_it_is_shared():
    prior = priors.wrap(tiny.make_pipeline(), neighbours=priors.view_ring(3))
    cond, _ = prior.encode_prompt("a cat")
    with prior.sampling(), pytest.raises(ValueError, match="prior.prepare_conditions"):
        prior.raw(torch.randn(3, 4, 8, 8), torch.tensor([500]).expand(3), cond, None)
