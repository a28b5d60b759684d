"""Priors that can be solved exactly, and an independent count of what a prior is asked."""

import math

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler


def ddim(**config):
    """Stable Diffusion's schedule without clipping (a bare DDIMScheduler clips)."""
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**{**settings, **config})


def flow(**config):
    return FlowMatchEulerDiscreteScheduler(**config)


def signal_noise(scheduler, t):
    """(a, b) [B] in float64 at times t [B], from the scheduler's public numbers only."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        s = t.double() / scheduler.config.num_train_timesteps
        return 1 - s, s
    abar = scheduler.alphas_cumprod.double()[t]
    return abar.sqrt(), (1 - abar).sqrt()


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Gaussian:
    """eps of x0 ~ N(mu, S), S = V diag(spectrum) V^T over the pixels of a view: eps = b (a^2 S + b^2)^-1 (x - a mu).

    ``mu`` is the condition, [B, C, h, w]. With ``spectrum`` None the pixels are independent with the given variance.
    """

    def __init__(self, scheduler, view_shape, variance=0.5, correlated=False, seed=0):
        self.scheduler, self.shape = scheduler, view_shape
        n = math.prod(view_shape)
        if correlated:
            self.basis = torch.linalg.qr(randn(n, n, seed=seed))[0]
            self.spectrum = variance * torch.linspace(0.05, 2.0, n, dtype=torch.float64)
        else:
            self.basis = torch.eye(n, dtype=torch.float64)
            self.spectrum = torch.full((n,), variance, dtype=torch.float64)

    def matrix(self, t):
        """G_t [n, n] with eps = G_t (x - a mu), for one time."""
        a, b = signal_noise(self.scheduler, t.reshape(1))
        return self.basis @ torch.diag(b / (a**2 * self.spectrum + b**2)) @ self.basis.T

    def __call__(self, x, t, mu):
        a, b = signal_noise(self.scheduler, t)
        y = (x.double() - a.reshape(-1, 1, 1, 1) * mu.double()).flatten(1) @ self.basis
        y = y * (b[:, None] / (a[:, None] ** 2 * self.spectrum + b[:, None] ** 2))
        return (y @ self.basis.T).reshape(x.shape).to(x.dtype)


def nonlinear(x, t, cond):
    """A smooth made-up network [B, C, h, w] that mixes cells and channels, nonlinear in x, depends on t and cond.

    ``cond`` [B, C, h, w] is a pattern, so views with different conditions have different priors.
    """
    phase = t.to(x.dtype).reshape(-1, 1, 1, 1) / 1000
    mixed = x + 0.3 * x.roll(1, -1) - 0.2 * x.roll(1, -2) + 0.1 * x.roll(1, 1)
    return 0.6 * torch.tanh(mixed * (1 + cond)) + 0.3 * torch.sin(2 * x + 3 * phase + cond) + 0.1 * phase * cond * x


class Counting:
    """Wraps an eps function: counts calls, forward rows and rows that a backward pass reaches."""

    def __init__(self, eps_fn):
        self.eps_fn, self.calls, self.rows, self.backward_rows = eps_fn, 0, 0, 0
        self.seen = []

    def __call__(self, x, t, cond):
        self.calls += 1
        self.rows += len(x)
        self.seen.append((t.clone(), cond))
        raw = self.eps_fn(x, t, cond)
        if raw.requires_grad:
            raw.register_hook(lambda gradient: self._count(len(gradient)))
        return raw

    def _count(self, rows):
        self.backward_rows += rows


def relative(got, expected):
    """Norm of the difference over the norm of what was expected."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())
