"""Signal and noise coefficients ``(a_t, b_t)`` of any supported scheduler, and the table of steps of one run.

Everything in fastsync is written with ``x_t = a_t x_0 + b_t eps``. Variance preserving schedules have
``a = sqrt(abar), b = sqrt(1 - abar)`` and integer times; rectified flow has ``a = 1 - s, b = s`` and times
``t = s * num_train_timesteps`` (float).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from ..errors import check_int, check_number
from ..ops.cfg_tweedie import PREDICTION_TYPES

_VP_PREDICTIONS = PREDICTION_TYPES[:3]
_FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
# Schedulers of discrete variance-preserving diffusion: they differ in solver, not in (a_t, b_t): each is run by DDIM.
_VP_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
)
_COEFFICIENT_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
)


@dataclass(frozen=True)
class StepTable:
    """Per-step coefficients of one run of T steps; the tensors are [T], float64, on the CPU.

    Attributes:
        timesteps: times as the network takes them, int64 (discrete schedules) or float32 (flow), first to last.
        a, b: coefficients at the step's time t.
        a_next, b_next: coefficients at the time s that the step leads to.
        sigma: standard deviation of the noise that the step adds.
        direction: ``sqrt(b_next^2 - sigma^2)``, what multiplies eps.
        progress: ``t / T_max``, 1 at the first step.
        pull: integral of ``(t/T_max) d log(a/b)`` over the step, for the stable coupling (inf where a = 0).
    """

    timesteps: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    a_next: torch.Tensor
    b_next: torch.Tensor
    sigma: torch.Tensor
    direction: torch.Tensor
    progress: torch.Tensor
    pull: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return bool((self.sigma > 0).any())

    def to(self, device: torch.device) -> StepTable:
        """The table on a device."""
        return replace(self, **{column.name: getattr(self, column.name).to(device) for column in fields(self)})


class NoiseSchedule:
    """``(a_t, b_t)``, prediction type and clipping rules, read from a diffusers scheduler.

    Supported: the discrete variance-preserving schedulers of Stable Diffusion pipelines (stepped by DDIM, Song 2021)
    and ``FlowMatchEulerDiscreteScheduler`` (or one of the former that has ``prediction_type="flow_prediction"``).
    The given scheduler is never changed.

    Raises:
        ValueError: unknown scheduler or prediction type.
    """

    def __init__(self, scheduler: Any) -> None:
        name = type(scheduler).__name__
        config = getattr(scheduler, "config", None)
        if config is None or not (name == _FLOW_SCHEDULER or name in _VP_SCHEDULERS):
            raise ValueError(
                f"scheduler {name} is not supported: pass one of diffusers' "
                f"{', '.join(n.removesuffix('Scheduler') for n in (*_VP_SCHEDULERS, _FLOW_SCHEDULER))} schedulers."
            )
        prediction = config.get("prediction_type", "epsilon")
        if prediction == "v":
            prediction = "v_prediction"
        self.kind: Literal["vp", "flow"]
        if name == _FLOW_SCHEDULER:
            self.kind, self.prediction_type = "flow", "flow"
            self._scheduler = copy.deepcopy(scheduler)
            if config.get("use_dynamic_shifting"):
                raise ValueError(
                    "the scheduler has use_dynamic_shifting=True, whose shift depends on the size of the picture: "
                    "pass FlowMatchEulerDiscreteScheduler.from_config(config, use_dynamic_shifting=False, shift=...)."
                )
            if config.get("invert_sigmas"):
                raise ValueError(
                    "the scheduler has invert_sigmas=True (times that rise towards the data), which is not supported: "
                    "pass FlowMatchEulerDiscreteScheduler.from_config(config, invert_sigmas=False)."
                )
        elif prediction == "flow_prediction":
            from diffusers import FlowMatchEulerDiscreteScheduler

            self.kind, self.prediction_type = "flow", "flow"
            self._scheduler = FlowMatchEulerDiscreteScheduler(
                num_train_timesteps=config.num_train_timesteps, shift=config.get("flow_shift", 1.0)
            )
        elif prediction in _VP_PREDICTIONS:
            from diffusers import DDIMScheduler

            self.kind, self.prediction_type = "vp", prediction
            # from_config replaces values that a scheduler has by default by DDIM's own defaults: what the coefficients
            # depend on is handed over by name. A scheduler whose config is silent about clipping does not clip.
            given = {k: config[k] for k in _COEFFICIENT_KEYS if config.get(k) is not None}
            clipping = {k: bool(config.get(k)) for k in ("clip_sample", "thresholding")}
            self._scheduler = DDIMScheduler.from_config(config, prediction_type=prediction, **given, **clipping)
            self._abar = self._scheduler.alphas_cumprod.double()
            self._abar_final = float(self._scheduler.final_alpha_cumprod)
        else:
            raise ValueError(
                f"prediction_type must be one of {', '.join(_VP_PREDICTIONS)} or flow_prediction, got {prediction!r}: "
                "set it in the scheduler's config to what the model was trained to predict."
            )
        self.num_train_timesteps = int(config.num_train_timesteps)

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(a_t, b_t)`` at times t [B] (int64, or float for flow), float64, on t's device."""
        if self.kind == "flow":
            s = t.double() / self.num_train_timesteps
            return 1.0 - s, s
        self._abar = self._abar.to(t.device)
        abar = self._abar[t.long()]
        return abar.sqrt(), (1.0 - abar).sqrt()

    @property
    def clips(self) -> bool:
        """Whether ``clip`` may change anything."""
        return self.kind == "vp" and bool(self._scheduler.config.thresholding or self._scheduler.config.clip_sample)

    def clip(self, x0: torch.Tensor) -> torch.Tensor:
        """Apply the scheduler's ``clip_sample`` or dynamic ``thresholding`` to clean estimates [B, C, h, w]."""
        if not self.clips:
            return x0
        config = self._scheduler.config
        if config.thresholding:
            # Imagen's dynamic thresholding (Saharia 2022, section 2.3): per sample, rescale by a high quantile.
            magnitude = x0.detach().abs().flatten(1)
            bound = torch.quantile(magnitude, config.dynamic_thresholding_ratio, dim=1)
            bound = bound.clamp(min=1.0, max=config.sample_max_value).reshape(-1, *([1] * (x0.ndim - 1)))
            return torch.maximum(torch.minimum(x0, bound), -bound) / bound
        return x0.clamp(-config.clip_sample_range, config.clip_sample_range)

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        """The table of a run.

        Args:
            num_inference_steps: T, at least 1 and at most the training's number of times.
            eta: 0 (deterministic) to 1 (as stochastic as DDPM); ``sigma = eta (b_s/b_t) sqrt(b_t^2 - (a_t/a_s)^2
                b_s^2)``. A flow scheduler with ``stochastic_sampling=True`` draws all its noise anew
                (``sigma = b_s``) whatever eta is, as diffusers does.
        """
        steps = check_int("num_inference_steps", num_inference_steps)
        eta = check_number("eta", eta, minimum=0.0, maximum=1.0)
        if steps > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most {self.num_train_timesteps} (the training's), got {steps}."
            )
        scheduler = copy.deepcopy(self._scheduler)
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps.cpu()
        if self.kind == "vp":
            # The trailing spacing's rounding sometimes adds a time before 0; an offset may put the first past the last.
            times = times[times >= 0]
            if int(times.max()) >= self.num_train_timesteps:
                raise ValueError(
                    f"{steps} steps with steps_offset={scheduler.config.steps_offset} start at time "
                    f"{int(times.max())}, but the last is {self.num_train_timesteps - 1}: take fewer steps or "
                    "steps_offset=0."
                )
        a, b = self.coefficients(times)
        if self.kind == "flow":
            s_next = torch.cat([b[1:], b.new_tensor([float(scheduler.sigmas[-1])])])
            a_next, b_next = 1.0 - s_next, s_next
        else:
            # diffusers' DDIM: the step leads to t - T_train // T, whatever the spacing of the table.
            previous = times - self.num_train_timesteps // steps
            final = torch.full_like(a, self._abar_final)
            abar_next = torch.where(previous >= 0, self._abar.cpu()[previous.clamp(min=0)], final)
            a_next, b_next = abar_next.sqrt(), (1.0 - abar_next).clamp(min=0).sqrt()
        if self.kind == "flow" and scheduler.config.get("stochastic_sampling", False):
            sigma = b_next.clone()
        else:
            variance = (b_next / b) ** 2 * (b**2 - (a / a_next) ** 2 * b_next**2)
            sigma = eta * variance.clamp(min=0).sqrt()
        return self._table(times, a_next, b_next, sigma)

    def table_at(self, times: torch.Tensor) -> StepTable:
        """The table of deterministic steps from each of ``times`` to the next, and from the last to the clean end.

        Args:
            times: [T], falling, as the network takes them: int64 below ``num_train_timesteps``, or float32 for flow.

        The clean end is ``a = 1, b = 0``, on discrete schedules diffusers' ``final_alpha_cumprod``.
        """
        a, b = self.coefficients(times)
        end = 1.0 if self.kind == "flow" else self._abar_final
        a_end, b_end = (math.sqrt(end), math.sqrt(1.0 - end))
        a_next, b_next = torch.cat([a[1:], a.new_tensor([a_end])]), torch.cat([b[1:], b.new_tensor([b_end])])
        return self._table(times, a_next, b_next, torch.zeros_like(a))

    def _table(self, times: torch.Tensor, a_next: torch.Tensor, b_next: torch.Tensor, sigma: torch.Tensor) -> StepTable:
        a, b = self.coefficients(times)
        direction = (b_next**2 - sigma**2).clamp(min=0).sqrt()
        progress = times.double() / float(times[0]) if float(times[0]) > 0 else torch.ones_like(a)
        return StepTable(
            times, a, b, a_next, b_next, sigma, direction, progress, self._pull(times, b_next, float(times[0]))
        )

    def _pull(self, times: torch.Tensor, b_next: torch.Tensor, t_max: float) -> torch.Tensor:
        """Integral of (t/T_max) d log(a/b) over each step, on the training's own grid of times."""
        if t_max <= 0:
            return torch.ones(len(times), dtype=torch.float64)
        if self.kind == "flow":
            # (s/s_max) ds / (s (1 - s)) integrates to -log(1 - s) / s_max.
            s = times.double() / self.num_train_timesteps
            return (torch.log1p(-b_next) - torch.log1p(-s)) * (self.num_train_timesteps / t_max)
        abar = self._abar.cpu()
        half_log_snr = 0.5 * (abar.log() - torch.log1p(-abar))
        grid = torch.arange(1, len(abar), dtype=torch.float64)
        cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), -(grid / t_max * half_log_snr.diff()).cumsum(0)])
        previous = torch.cat([times[1:], times.new_zeros(1)]).clamp(min=0)
        return (cumulative[times] - cumulative[previous]).clamp(min=0)


def is_vanishing(a: torch.Tensor) -> bool:
    """Whether a run touches a time without signal (``a = 0``), where divisions by ``a`` do not exist."""
    return bool((a < math.sqrt(torch.finfo(torch.float64).tiny)).any())
