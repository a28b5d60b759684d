"""Deep features of a UNet: computed in one call, constants of the later ones at views nearby."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch


class DeepFeatures:
    """What the deeper levels of a UNet make of a batch of views, kept for further calls with the same batch.

    The first call runs the whole network. The later ones compute its outermost level alone, forward and backward: the
    first down block without its downsampler, and the last up block, which takes what the levels between them gave it in
    the first call for a constant. Deep features change slowly, as DeepCache (Ma 2023) found, which reuses them from one
    denoising step to the next; here they go from one iteration of a step's controls to the next, where the time stays
    and views hardly move.

    Args:
        unet: a ``UNet2DConditionModel``, not compiled as a whole.

    Raises:
        ValueError: a network with a single level.
    """

    def __init__(self, unet: Any) -> None:
        if len(unet.down_blocks) < 2:
            raise ValueError(
                f"feature_reuse=True reuses the deeper levels of a UNet, and this one has {len(unet.down_blocks)}: use "
                "feature_reuse=False."
            )
        self._source: torch.nn.Module = unet.up_blocks[-2]
        self._constant: list[tuple[torch.nn.Module, Callable[..., Any]]] = [
            *((module, _same) for module in unet.down_blocks[0].downsamplers or ()),
            *(
                (block, partial(_skips, len(block.resnets) + bool(block.downsamplers)))
                for block in unet.down_blocks[1:]
            ),
            *((block, _same) for block in (unet.mid_block, *unet.up_blocks[:-2]) if block is not None),
        ]
        self._kept: dict[str, torch.Tensor] = {}

    @classmethod
    def of(cls, unet: Any, compile: str) -> DeepFeatures:
        """Those of a pipeline's UNet, which runs by ``compile``.

        Raises:
            ValueError: the UNet has a single level, or is compiled as a whole.
        """
        # By us; as a compiled copy; or in place.
        if compile == "max" or type(unet).__name__ == "OptimizedModule" or unet._compiled_call_impl is not None:
            raise ValueError(
                "feature_reuse=True leaves out blocks of the network, and this one is compiled as a whole: use "
                "compile='regional' or 'off', or feature_reuse=False."
            )
        return cls(unet)

    @property
    def kept(self) -> bool:
        """Whether calls are shallow by now."""
        return bool(self._kept)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these views of the batch only, int64 [B']."""
        self._kept = {name: features[:, rows] for name, features in self._kept.items()}

    @contextmanager
    def serving(self, name: str, halves: int, count: int) -> Iterator[None]:
        """Around one call of the network: keeps features the first time, and puts them in the next times.

        Args:
            name: which call of an evaluation it is, where guidance's halves are called apart.
            halves: 2 where both halves are in the call's batch, else 1.
            count: B, the views of the batch. Rows that follow each half's B to fill its shape are not kept.
        """
        if name in self._kept:
            with self._shallow(self._kept[name]):
                yield
            return
        found: list[torch.Tensor] = []
        hook = self._source.register_forward_hook(lambda module, given, out: found.append(out.detach()))
        try:
            yield
        finally:
            hook.remove()
        self._kept[name] = found[0].unflatten(0, (halves, -1))[:, :count]

    @contextmanager
    def _shallow(self, features: torch.Tensor) -> Iterator[None]:
        """The deeper levels give ``features`` [halves, B, C, h, w], each half's last row repeated to fill the batch."""

        def source(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            rows = torch.arange(len(hidden_states) // len(features), device=features.device)
            return features[:, rows.clamp(max=features.shape[1] - 1)].flatten(0, 1)

        # What torch calls in place of a module's forward where there is one. The blocks' own forwards, and what is
        # compiled inside of them, are not touched.
        with ExitStack() as stack:
            for module, call in (*self._constant, (self._source, source)):
                stack.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = call
            yield


def _same(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """A block whose output is not used."""
    return hidden_states


def _skips(
    count: int, hidden_states: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """A down block whose output is not used; the network counts its skips."""
    return hidden_states, (hidden_states,) * count
