"""What Stable Diffusion pipelines share whose network sees a picture of each view, such as its depth."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..conditions import Conditions
from ..errors import check_tensor, shape_text
from .base import DepthConditioned
from .diffusers_unet import DiffusersPrior


class ControlledPrior(DiffusersPrior, DepthConditioned):
    """A prior whose conditions are ``text`` [N, L, D] and ``control`` [N, c, H, W], N being 1 for all views alike.

    ``control_shape`` is (c, H, W). Both of guidance's halves see the control.
    """

    known_conditions: tuple[str, ...] = ("text", "control")
    prepared_name: ClassVar[str] = "control"  # of the control once it is as the network gets it

    @property
    def control_shape(self) -> tuple[int, int, int]:
        """(c, H, W) of a view's control."""
        raise NotImplementedError

    def with_control(self, cond: Any, uncond: Any, depth: torch.Tensor) -> tuple[Conditions, Conditions | None]:
        """Text conditions with the views' depth, as ``sample`` takes them.

        Args:
            cond, uncond: text embeddings [N or 1, L, D], what ``encode_prompt`` gave; ``uncond`` None without guidance.
            depth: [N, 1, H, W] or [1, 1, H, W], a view's size in pixels (``window`` times ``scale``), from 0
                (background) to 1 (nearest), linear in inverse depth.

        Returns:
            Conditions ``text`` and ``control`` of either half, the control being the same tensor in both.

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
        told = Conditions({"text": cond, "control": control})
        return told, None if uncond is None else told.updated(text=uncond)

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Check the controls, and compute once a view what the network makes of them alone."""
        control = self._parts(cond)[1]
        other = control if uncond is None else self._parts(uncond)[1]
        prepared = self._prepared(control)
        # What both halves share is computed once.
        prepared_uncond = prepared if other is control else self._prepared(other)
        assert cond is not None  # _parts() has looked
        told = cond.renamed("control", self.prepared_name, prepared)
        told_uncond = None if uncond is None else uncond.renamed("control", self.prepared_name, prepared_uncond)
        return super().prepare_conditions(told, told_uncond, num_views)

    def _parts(self, cond: Conditions | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and control, prepared or not."""
        need = f" and control {self._shape}: pass what prior.with_control(*prior.encode_prompt(prompt), depth) gives"
        names = [name for name in ("control", self.prepared_name) if cond is not None and name in cond]
        if cond is None or not names:
            raise ValueError(f"cond is {cond!r}, but this pipeline's network needs text embeddings{need}.")
        return self.checked(cond, need)["text"], cond[names[0]]

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
