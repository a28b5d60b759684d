"""A run's steps at the times that the pipeline's own call sets."""

from __future__ import annotations

import torch

from ...diffusion import NoiseSchedule, StepTable
from .recording import Recording
from .refusal import CannotProbe

_TIMES = ("sigmas", "mu", "timesteps", "original_inference_steps")  # arguments of NoiseSchedule.steps


def own_steps(schedule: NoiseSchedule, recording: Recording, num_inference_steps: int, eta: float) -> StepTable:
    """The step table of a run, from a recorded call of its length.

    Raises:
        CannotProbe: the pipeline takes its steps at other times than its scheduler has.
    """
    given = dict(recording.times or {})
    given.pop("num_inference_steps", None)
    unknown = {k: v for k, v in given.items() if k not in _TIMES}
    if recording.times is None or unknown:
        raise CannotProbe(
            f"it sets its times by {', '.join(unknown)}" if unknown else "its scheduler's set_timesteps is not called"
        )
    if schedule.solver == "ddim" and schedule.kind == "vp" and schedule.scheduler_name != "DDIMScheduler":
        # DDIM in the place of the pipeline's own scheduler, at times of its own, from where the pipeline begins.
        table = schedule.steps(num_inference_steps, eta)
        first = float(torch.as_tensor(recording.steps[0].t))
        return table if recording.start is None else table.after(int((table.timesteps[:-1] > first).sum()))
    table = schedule.steps(num_inference_steps, eta, **given)
    times = torch.stack([torch.as_tensor(step.t).double().cpu().reshape(()) for step in recording.steps])
    skipped = len(table) - len(times)
    if skipped < 0 or not torch.allclose(table.timesteps[skipped:].double(), times, rtol=1e-4, atol=1e-3):
        raise CannotProbe("it takes its steps at other times than those that its scheduler has set")
    return table.after(skipped)
