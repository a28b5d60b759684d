"""Between sample units and an autoencoder's own latents: ``z = factor x + shift``, by channel or by place in a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import check_number, check_tensor, shape_text, shown


class Normalisation:
    """The map from sample units to an autoencoder's own latents, and back.

    Args:
        config: the autoencoder's, whose ``scaling_factor``, ``shift_factor``, ``latents_mean`` and ``latents_std`` are
            what counts where the next two are None.
        factor, shift: a number, or a tensor [C] or [C, patch, patch].
        patch: side of the square of latent cells whose channels lie one after the other in sample units.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        factor: float | torch.Tensor | None,
        shift: float | torch.Tensor | None,
        patch: int,
    ) -> None:
        std, mean = config.get("latents_std"), config.get("latents_mean")
        self._divisor = 1.0
        if factor is None:
            # Divided by, as pipelines do: a product with the reciprocal differs in the last bit.
            factor = 1.0 if std is None else torch.tensor(std)
            self._divisor = config.get("scaling_factor") or 1.0
        if shift is None:
            shift = (config.get("shift_factor") or 0.0) if mean is None else torch.tensor(mean)
        self._factor, self._shift = _checked("factor", factor, patch), _checked("shift", shift, patch)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Sample units [B, C, h, w] to the autoencoder's own latents."""
        if not _is(self._factor, 1.0):
            x = x * _like(self._factor, x)
        if self._divisor != 1.0:
            x = x / self._divisor
        return x if _is(self._shift, 0.0) else x + _like(self._shift, x)

    def remove(self, z: torch.Tensor) -> torch.Tensor:
        """The autoencoder's own latents [B, C, h, w] to sample units."""
        if not _is(self._shift, 0.0):
            z = z - _like(self._shift, z)
        if self._divisor != 1.0:
            z = z * self._divisor
        return z if _is(self._factor, 1.0) else z / _like(self._factor, z)


def _checked(name: str, value: float | torch.Tensor, patch: int) -> float | torch.Tensor:
    """A number, or a tensor [C patch patch, 1, 1] in the order of sample units."""
    if not isinstance(value, torch.Tensor):
        return check_number(name, value)
    value = check_tensor(name, value).detach()
    if value.ndim == 1:
        return value.repeat_interleave(patch * patch)[:, None, None]
    if value.ndim != 3 or value.shape[1:] != (patch, patch):
        raise ValueError(
            f"{name} must be a number or a tensor [C] or [C, {patch}, {patch}] (patch={patch}), got "
            f"{shape_text(value.shape) if value.ndim else shown(value)}: give it by the VAE's own latent channels."
        )
    return value.reshape(-1, 1, 1)


def _is(value: float | torch.Tensor, number: float) -> bool:
    return not isinstance(value, torch.Tensor) and value == number


def _like(value: float | torch.Tensor, x: torch.Tensor) -> float | torch.Tensor:
    return value.to(x) if isinstance(value, torch.Tensor) else value
