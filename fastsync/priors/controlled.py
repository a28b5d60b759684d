"""What Stable Diffusion pipelines share whose network sees a picture of each view, such as its depth."""

from __future__ import annotations

from typing import Any

import torch

from .. import conditions
from ..conditions import Condition
from ..errors import check_tensor, shape_text
from .diffusers_unet import DiffusersPrior


class ControlledPrior(DiffusersPrior):
    """A prior whose condition is ``(text [N, L, D], control [N, c, H, W])``, first dimensions of 1 being for all views.

    ``control_shape`` is (c, H, W). Both of guidance's halves see the control.
    """

    @property
    def control_shape(self) -> tuple[int, int, int]:
        """(c, H, W) of a view's control."""
        raise NotImplementedError

    def with_control(
        self, cond: torch.Tensor, uncond: torch.Tensor | None, depth: torch.Tensor
    ) -> tuple[Condition, Condition | None]:
        """Text conditions with the views' depth, as ``sample`` takes them.

        Args:
            cond, uncond: text embeddings [N or 1, L, D], what ``encode_prompt`` gave; ``uncond`` None without guidance.
            depth: [N, 1, H, W] or [1, 1, H, W], a view's size in pixels (``window`` times ``scale``), from 0
                (background) to 1 (nearest), linear in inverse depth.

        Returns:
            ``(text, control)`` of either half, the control being the same tensor in both.

        Raises:
            TypeError, ValueError: depth of another shape, size or range; conditions that have a control already.
        """
        for name, text in (("cond", cond), ("uncond", uncond)):
            if not isinstance(text, torch.Tensor) and (name == "cond" or text is not None):
                raise TypeError(
                    f"{name} must be text embeddings, got {type(text).__name__}: pass what prior.encode_prompt(prompt) "
                    "gives."
                )
        height, width = (self.scale * side for side in self.window)
        check_tensor("depth", depth)
        if depth.ndim != 4 or depth.shape[1:] != (1, height, width):
            raise ValueError(
                f"depth must be [N, 1, {height}, {width}], a view's size in pixels, got {shape_text(depth.shape)}: "
                "render it at that size."
            )
        low, high = (float(limit) for limit in depth.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"depth must be from 0 (background) to 1 (nearest), got {low:g} to {high:g}: scale inverse depth to "
                "that range."
            )
        control = self._control(depth.to(self.device)).to(cond.dtype)
        return (cond, control), None if uncond is None else (uncond, control)

    def prepare_conditions(
        self, cond: Condition | None, uncond: Condition | None, num_views: int
    ) -> tuple[Condition | None, Condition | None]:
        """Check the controls, and compute once a view what the network makes of them alone."""
        text, control = self._parts(cond)
        text_uncond, control_uncond = (None, None) if uncond is None else self._parts(uncond)
        prepared, prepared_uncond = conditions.both(self._prepared, control, control_uncond)
        # One tensor in, one tensor out.
        assert isinstance(prepared, torch.Tensor) and not isinstance(prepared_uncond, tuple)
        uncond = None if text_uncond is None or prepared_uncond is None else (text_uncond, prepared_uncond)
        return super().prepare_conditions((text, prepared), uncond, num_views)

    def _parts(self, cond: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and control."""
        if isinstance(cond, tuple) and len(cond) == 2:
            return cond
        got = f"a tuple of {len(cond)}" if isinstance(cond, tuple) else "None" if cond is None else "a tensor"
        raise ValueError(
            f"cond is {got}, but this pipeline's network needs (text, control), the control being {self._shape}: pass "
            "what prior.with_control(*prior.encode_prompt(prompt), depth) gives."
        )

    @property
    def _shape(self) -> str:
        return f"[N, {', '.join(map(str, self.control_shape))}]"

    def _control(self, depth: torch.Tensor) -> torch.Tensor:
        """Checked depth [N, 1, H, W] as a control [N, *control_shape]."""
        raise NotImplementedError

    def _prepared(self, control: torch.Tensor) -> torch.Tensor:
        """A control [N, *control_shape], checked for that, as ``network`` is to get it."""
        if control.shape[1:] != self.control_shape:
            raise ValueError(
                f"the control must be {self._shape}, got {shape_text(control.shape)}: make it with prior.with_control, "
                "or at that size."
            )
        return control
