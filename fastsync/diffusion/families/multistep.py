"""DPM-Solver++ and the predictor of UniPC: the estimate is extrapolated from the step before."""

from __future__ import annotations

from typing import Any

import torch

from ..clipping import Clipping
from ..curve import DiscreteCurve, FlowCurve
from ..table import Levels
from .base import VP_PREDICTIONS, Refusal, prediction_of
from .sigmas import Sigmas

_FLOW_PREDICTIONS = ("epsilon", "sample", "flow")
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


class _Multistep(Sigmas):
    """What the three have in common: the curve of their sigmas, and how far second order extrapolates."""

    # Spacings that the class turns into sigmas of a flow.
    flow_spacings: tuple[str, ...] = ()

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        flow = config.get("use_flow_sigmas")
        prediction = prediction_of(config, (*VP_PREDICTIONS, "flow"))
        if prediction not in (_FLOW_PREDICTIONS if flow else VP_PREDICTIONS):
            raise Refusal(
                f"prediction_type={config.prediction_type!r} does not go with use_flow_sigmas={bool(flow)}",
                f"set use_flow_sigmas={not flow} in its config",
            )
        for spacing in _SPACINGS:
            if flow and config.get(spacing) and spacing not in self.flow_spacings:
                raise Refusal(
                    f"its {spacing}=True makes sigmas above 1, which use_flow_sigmas=True takes for those of a flow",
                    f"set {spacing}=False in its config",
                )
        self.prediction_type = prediction
        self.curve = (
            FlowCurve(int(config.num_train_timesteps)) if flow else DiscreteCurve(self.scheduler.alphas_cumprod)
        )
        self.clipping = Clipping.of(config, samples=False)
        self.order = int(config.solver_order)

    def extrapolation(self, scheduler: Any, levels: Levels) -> torch.Tensor | None:
        """``h / (2 h_before)``, h being steps of ``log(a/b)``; 0 where the scheduler falls back to first order."""
        if self.order == 1:
            return None
        here = levels.a.log() - levels.b.log()
        h, before = levels.a_next.log() - levels.b_next.log() - here, here.diff(prepend=here[:1])
        # A step of length 0, which rounded times may make, is nothing to extrapolate from.
        second = before > 0
        if self.ends_at_first_order(scheduler):
            second[-1] = False
        return torch.where(second, self.weight(h) * h / (2.0 * before), 0.0)

    def ends_at_first_order(self, scheduler: Any) -> bool:
        """Whether the last step is of first order."""
        raise NotImplementedError

    def weight(self, h: torch.Tensor) -> torch.Tensor:
        """How far the solver extrapolates, in terms of the midpoint rule, for steps h [T] of ``log(a/b)``."""
        return torch.ones_like(h)


class DPMSolverMultistep(_Multistep):
    """DPM-Solver++ (Lu 2022, algorithm 2: "2M"), or its SDE form, at midpoints; of order 1 either is DDIM's step."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        algorithm = config.algorithm_type
        if algorithm == "sde-dpmsolver":
            raise Refusal(
                "algorithm_type='sde-dpmsolver' adds more noise than it takes away",
                "set algorithm_type='sde-dpmsolver++' in its config",
            )
        if self.order > 1 and algorithm == "dpmsolver":
            raise Refusal(
                "algorithm_type='dpmsolver' above order 1 extrapolates noise and not the clean estimate",
                "set algorithm_type='dpmsolver++' in its config",
            )
        if self.order > 2:
            raise Refusal(
                f"solver_order={self.order} looks back at more than one step", "set solver_order=2 in its config"
            )
        if self.order == 2 and config.solver_type == "heun":
            raise Refusal(
                "solver_type='heun' weighs the extrapolated part apart", "set solver_type='midpoint' in its config"
            )
        self.own_noise = algorithm.startswith("sde")
        self.solver = f"{algorithm}({'1' if self.order == 1 else '2M'})"

    def ends_at_first_order(self, scheduler: Any) -> bool:
        """As the scheduler's ``step`` decides it."""
        config = scheduler.config
        return bool(
            config.euler_at_final
            or (config.lower_order_final and len(scheduler.timesteps) < 15)
            or config.final_sigmas_type == "zero"
        )


class DPMSolverSinglestep(_Multistep):
    """The singlestep solver of order 1, which is the multistep solver's."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        if self.order > 1:
            raise Refusal(
                f"its steps of order {self.order} go back to states before the last",
                "use DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
            )
        algorithm = self.scheduler.config.algorithm_type
        self.own_noise = algorithm.startswith("sde")
        self.solver = f"{algorithm}(1)"


class UniPC(_Multistep):
    """The predictor of UniPC (Zhao 2023, section 3.1), of order 1 or 2.

    Its corrector replaces a state by one that it computes from the states before, so that what a method has made of
    the state is lost: it must be disabled.
    """

    flow_spacings = ("use_karras_sigmas",)

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        config = self.scheduler.config
        mend = "use UniPCMultistepScheduler.from_config(pipe.scheduler.config, disable_corrector=list(range(1000)))"
        if 0 not in self.scheduler.disable_corrector:
            raise Refusal("its corrector computes states anew, and what synchronisation has made of them is lost", mend)
        if self.scheduler.solver_p is not None:
            raise Refusal("its predictor is another scheduler (solver_p)", "set solver_p=None in its config")
        if not self.scheduler.predict_x0:
            raise Refusal(
                "predict_x0=False extrapolates noise and not the clean estimate", "set predict_x0=True in its config"
            )
        if self.order > 2:
            raise Refusal(
                f"solver_order={self.order} looks back at more than one step", "set solver_order=2 in its config"
            )
        if self.order == 2 and not config.lower_order_final and config.final_sigmas_type == "zero":
            raise Refusal(
                "its last step is of second order towards sigma = 0, which diverges (lower_order_final=False)",
                "set lower_order_final=True in its config",
            )
        self.solver = f"unipc({config.solver_type}, order {self.order}, predictor)"

    def table(self, scheduler: Any, eta: float) -> Any:
        """As the base class says; refused where the corrector would run at a step of the table."""
        corrected = sorted(set(range(len(scheduler.timesteps) - 1)) - set(scheduler.disable_corrector))
        if corrected:
            raise ValueError(
                f"UniPCMultistepScheduler corrects the state after step {corrected[0]}, which its disable_corrector "
                f"does not name, and what synchronisation has made of it is lost: use disable_corrector=list(range("
                f"{len(scheduler.timesteps)})) or longer."
            )
        return super().table(scheduler, eta)

    def ends_at_first_order(self, scheduler: Any) -> bool:
        """As the scheduler's ``step`` decides it."""
        return bool(scheduler.config.lower_order_final)

    def weight(self, h: torch.Tensor) -> torch.Tensor:
        """``bh2`` is the midpoint rule; ``bh1`` has h where that has ``1 - exp(-h)``."""
        if self.scheduler.config.solver_type == "bh2":
            return torch.ones_like(h)
        return torch.where(h != 0, h / -torch.expm1(-h), 1.0)
