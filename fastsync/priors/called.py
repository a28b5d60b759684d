"""What priors share that are made of a pipeline's own call, whether it is replayed or entered again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..conditions import Conditions
from ..diffusion import NoiseSchedule, SolverChoice
from ..errors import check_int, check_pair
from .base import PipelinePrior, strings
from .codecs import PIXELS, VaeCodec
from .probe.calling import Calling
from .probe.fitness import check_fit
from .probe.layout import Layout, Tail
from .probe.recording import Recorder
from .probe.refusal import refusing
from .request import ViewRequest
from .runtime import Runtime, dtype_of
from .shared_attention import NeighbourLists


class CalledPrior(PipelinePrior):
    """A prior made of a pipeline's own call, by stand-ins for its scheduler and its networks.

    A subclass learns the call in :meth:`_learn`, and looks at a run of known length in :meth:`_planned`.

    Args:
        pipe, window, runtime, solver, conditioning_scale, pipe_kwargs, neighbours, example, num_inference_steps: as in
            :class:`ProbedPrior`.

    Attributes:
        layout: between the pipeline's states and views.
    """

    layout: Layout

    def __init__(
        self,
        pipe: Any,
        *,
        window: tuple[int, int] | None = None,
        runtime: Runtime | None = None,
        solver: SolverChoice = "auto",
        conditioning_scale: float | None = None,
        pipe_kwargs: Mapping[str, Any] | None = None,
        neighbours: NeighbourLists | None = None,
        example: ViewRequest | None = None,
        num_inference_steps: int | None = None,
    ) -> None:
        check_fit(pipe)
        self.pipe, self.runtime = pipe, Runtime.of(pipe) if runtime is None else runtime
        self.schedule = NoiseSchedule(pipe.scheduler, solver)
        self._recorder = Recorder(pipe)
        self._asked_window = None if window is None else check_pair("window", window)
        self._calling = Calling(self._recorder, self._asked_window, pipe_kwargs or {}, conditioning_scale)
        self.takes_control = self._calling.control is not None
        self._call = self._first_call() if example is None else self._calling.of_view(example, 0)
        with refusing(pipe):
            self._learn(neighbours)
            if num_inference_steps is not None:
                self._planned(check_int("num_inference_steps", num_inference_steps))

    def _first_call(self) -> dict[str, Any]:
        """Arguments to learn by where nobody has said what is going to be asked."""
        return self._calling.plain()

    def _learn(self, neighbours: NeighbourLists | None) -> None:
        """Learn the pipeline's call, and the layout of its views.

        Raises:
            CannotProbe: it cannot be learnt.
            ValueError: ``neighbours`` are asked for that it cannot share attention between.
        """
        raise NotImplementedError

    def _planned(self, num_inference_steps: int) -> None:
        """Look at a call of so many steps; raises CannotProbe as ``_learn`` does."""
        raise NotImplementedError

    def _laid_out(self, tail: Tail | None, decoder: str, state_shape: Sequence[int]) -> None:
        """Set layout, codec and window from what the pipeline does with its last state.

        Args:
            tail: that; None where the state is the picture itself.
            decoder: name of the autoencoder.
            state_shape: of one state.

        Raises:
            ValueError: views are of another size than was asked for.
        """
        if tail is None:
            c, h, w = state_shape
            self.codec, self.layout = PIXELS, Layout((c, h, w), (c, h, w))
        else:
            self.layout = tail.layout
            vae = getattr(self.pipe, decoder)
            self.codec = VaeCodec(
                vae,
                factor=tail.factor,
                shift=tail.shift,
                patch=tail.patch,
                dtype=tail.dtype,
                decoding=tail.decoding,
            )
        self.window = self.layout.view_shape[1:]
        asked, made = self._asked_window, self.window_pixels
        if asked is not None and made != asked:
            raise ValueError(
                f"window is {asked[0]} x {asked[1]} pixels, and {type(self.pipe).__name__} makes views of {made[0]} x "
                f"{made[1]} of it: ask for that size."
            )

    @property
    def _denoiser(self) -> str:
        """The name of the network whose answer is the model output."""
        raise NotImplementedError

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a view in the autoencoder's cells, or in pixels."""
        return self.layout.view_shape

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return dtype_of(getattr(self.pipe, self._denoiser))

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> tuple[Conditions, Conditions | None]:
        """Conditions ``(cond, uncond)`` of n prompts, with the pipeline's own guidance."""
        prompts, negatives = strings(prompt, negative_prompt)
        told = self.told(ViewRequest(len(prompts), prompts, negatives))
        assert isinstance(told.cond, Conditions) and (told.uncond is None or isinstance(told.uncond, Conditions))
        return told.cond, told.uncond
