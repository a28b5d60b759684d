"""Rewards asked together: decoding in one batch, gradients through the decoder, pictures let go of."""

import copy

import pytest
import torch
from exact_priors import randn, relative

import fastsync as fs
from fastsync.rewards import Perceptual, Style
from fastsync.rewards.base import Reward, as_reward
from fastsync.rewards.reward_sum import RewardSum

CANVAS = fs.WideCanvas((4, 14), (4, 6), 4)
ALL_EARLIER = [(), (0,), (0, 1)]
MIX = randn(3, 2, seed=9)


class Decoder:
    """A smooth made-up decoder [B, 2, h, w] to [B, 3, 2 h, 2 w]; remembers how many pictures it was asked for."""

    def __init__(self, dtype=torch.float64):
        self.batches, self.dtype = [], dtype

    def __call__(self, x):
        self.batches.append((len(x), x.requires_grad))
        mixed = torch.einsum("kc,bchw->bkhw", MIX.to(self.dtype), x.to(self.dtype))
        return torch.tanh(mixed.repeat_interleave(2, -1).repeat_interleave(2, -2))


def layers(pictures):
    return [torch.tanh(pictures.roll(1, -1) - 0.5 * pictures + 0.2), pictures[..., ::2, ::2].sin()]


def panel(rewards, decode, estimates, sources=ALL_EARLIER):
    return RewardSum([as_reward(r) for r in rewards], CANVAS, [0, 1, 2], sources, decode, lambda i, k: estimates[i, k])


def test_gradients_are_autograds_through_the_decoder():
    style, alike = Style(torch.sigmoid(randn(3, 8, 8)), style_weight=2.0, features=layers), Perceptual(layers)
    estimates = {key: randn(2, 4, 6, seed=n) for n, key in enumerate([(0, 1), (0, 0), (1, 0)])}

    def own(x0, earlier, i):
        return (i + 1) * x0.sin().sum() + sum((x0 * e).sum() for e in earlier)

    decode, work = Decoder(), [(0, 2), (1, 1), (2, 0)]
    some, x0 = panel([style, own, alike], decode, estimates), randn(3, 2, 4, 6, seed=7)
    got = some.gradient(work, x0)
    assert decode.batches == [(3, True), (3, False)]  # the views in one batch, and the earlier ones in another
    leaf, total, values = x0.clone().requires_grad_(), 0.0, []
    for n, (i, k) in enumerate(work):
        earlier = [estimates[j, k] for j in range(i)]
        picture = Decoder()(leaf[n : n + 1])[0] / 2 + 0.5
        value = style(picture, [], i) + own(leaf[n], earlier, i)
        if earlier:
            value = value + alike(picture, [Decoder()(e[None])[0] / 2 + 0.5 for e in earlier], i)
        values.append(value)
        total = total + value
    total.backward()
    assert relative(got, leaf.grad) < 1e-12
    assert relative(some.scores(work, x0), torch.stack(values).detach()) < 1e-12


def test_pictures_are_decoded_once_and_let_go_of():
    estimates = {(j, k): randn(2, 4, 6, seed=j + 3 * k) for j in range(2) for k in range(2)}
    decode = Decoder()
    some = panel([Perceptual(layers)], decode, estimates)
    for _ in range(3):
        some.gradient([(1, 0)], randn(1, 2, 4, 6))
    assert decode.batches == [(1, True), (1, False), (1, True), (1, True)]
    some.done([(1, 0)])
    some.gradient([(1, 1), (2, 0)], randn(2, 2, 4, 6))
    assert decode.batches[4:] == [(2, True), (2, False)]  # (0, 1) and (1, 0); (0, 0) is still there
    assert set(some._pictures) == {(0, 0), (0, 1), (1, 0)}
    some.done([(1, 1), (2, 0)])
    assert set(some._pictures) == {(0, 1)}
    some.done([(2, 1)])
    assert not some._pictures and not some._readers


def test_nothing_is_decoded_for_rewards_of_the_priors_own_units():
    some = panel([lambda x0, earlier, i: x0.sum()], None, {(0, 0): randn(2, 4, 6)})
    assert torch.equal(some.gradient([(1, 0)], randn(1, 2, 4, 6)), torch.ones(1, 2, 4, 6).double())


def test_a_decoder_in_half_precision_keeps_small_gradients():
    class Faint(Reward):
        pixels, reads_earlier = True, False

        def __call__(self, x0, earlier, i):
            return 1e-9 * x0.sum()

    x0 = randn(1, 2, 4, 6)
    exact = panel([Faint()], Decoder(), {}).gradient([(0, 0)], x0)
    half = panel([Faint()], Decoder(torch.float16), {}).gradient([(0, 0)], x0)
    assert half.dtype == torch.float64 and relative(half, exact) < 1e-2


def test_what_a_reward_must_return():
    x0 = randn(1, 2, 4, 6)
    for value, kind, sentence in [
        ("high", TypeError, "the reward f must return a number, got str"),
        (torch.zeros(2), ValueError, r"the reward f must return one number, got a tensor \[2\]"),
        (float("nan"), FloatingPointError, "not a number at view 0, step 3"),
    ]:

        def f(x0, earlier, i, value=value):
            return value

        with pytest.raises(kind, match=sentence):
            panel([f], None, {}).scores([(0, 3)], x0)
    with pytest.raises(ValueError, match=r"decoder that gives \[B, 3, H, W\], got \[1, 2, 4, 6\]"):
        panel([Perceptual(layers, against="mean")], lambda x: x, {}).gradient([(0, 0)], x0)


def test_a_reward_without_gradient_is_refused_once_all_views_were_asked():
    estimates = {(j, 0): randn(2, 4, 6, seed=j) for j in range(2)}
    some = panel([lambda x0, earlier, i: float(x0.detach().sum())], None, estimates)
    for i in range(2):
        assert not some.gradient([(i, 0)], randn(1, 2, 4, 6)).any()
    with pytest.raises(TypeError, match="the reward <lambda> gave no gradient for any view.*search=n"):
        some.gradient([(2, 0)], randn(1, 2, 4, 6))
    late = panel([lambda x0, earlier, i: x0.sum() if i == 2 else 0.0], None, estimates)
    for _ in range(2):
        for i in range(3):
            late.gradient([(i, 0)], randn(1, 2, 4, 6))


def test_what_is_kept_between_steps_can_be_saved():
    estimates = {(j, k): randn(2, 4, 6, seed=j + 3 * k) for j in range(2) for k in range(2)}

    def at_first(x0, earlier, i):
        return x0.sum() if float(x0.sum()) > 0 else 0.0

    def build():
        decode = Decoder()
        return panel([Perceptual(layers), at_first], decode, estimates), decode

    some, _ = build()
    for i in range(3):
        some.gradient([(i, 0)], randn(1, 2, 4, 6).abs())
    some.done([(0, 0), (1, 0)])
    other, decode = build()
    other.load_state_dict(copy.deepcopy(some.state_dict()))
    work, x0 = [(2, 0), (1, 1)], -randn(2, 2, 4, 6).abs()
    assert torch.equal(other.gradient(work, x0), some.gradient(work, x0))
    assert decode.batches == [(2, True), (1, False)]  # of (0, 0), (1, 0) and (0, 1) the last one only
    for i in range(3):
        other.gradient([(i, 1)], x0[:1])  # it had a gradient once, so it is none that is refused
    for panels in (some, other):
        panels.done([(2, 0), (1, 1), (2, 1)])
        assert not panels._readers
    assert not other._pictures
