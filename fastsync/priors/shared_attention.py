"""Self-attention of views that look at one another, for the length of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..conditions import Conditions
from ..errors import check_int, shown

VIEW_LABELS = "view_labels"  # the name of the rows' labels among conditions
NeighbourLists = Sequence[Sequence[int]]


def view_ring(num_views: int) -> list[list[int]]:
    """NeighbourLists of views around something: the one before and the one after."""
    count = check_int("num_views", num_views)
    return [[(i - 1) % count, (i + 1) % count] for i in range(count)]


def not_shared(pipe: Any) -> ValueError:
    """What to raise where neighbours are asked of a pipeline whose self-attention cannot be shared."""
    return ValueError(
        f"neighbours shares the self-attention of views, which is not supported in {type(pipe).__name__}: use "
        "neighbours=None, or a Stable Diffusion pipeline."
    )


class SharedAttention:
    """A UNet in whose self-attention each view also sees its neighbours, while ``on()`` is entered.

    A view's queries attend to the keys and values of the view itself and of its neighbours, at each layer and within
    their own half of guidance, as papers on texturing do (SyncMVD, Liu 2023). All views have to be in each call. Every
    row therefore carries a label among its conditions: its view, and N more in the conditional half.

    Args:
        unet: a ``UNet2DConditionModel``.
        neighbours: for each of the N views the views that it sees beside itself.

    Raises:
        TypeError, ValueError: ``neighbours`` names views that are not there; a UNet without self-attention.
    """

    def __init__(self, unet: nn.Module, neighbours: NeighbourLists) -> None:
        self._processor = _Processor(_checked(neighbours))
        self._layers: list[Any] = [
            layer for name, layer in unet.named_modules() if name.endswith(".attn1") and not layer.is_cross_attention
        ]
        if not self._layers:
            raise ValueError(
                "neighbours shares the self-attention of views, and this UNet has none: use neighbours=None."
            )

    @property
    def active(self) -> bool:
        """Whether ``on()`` is entered."""
        return self._layers[0].processor is self._processor

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Self-attention is shared in here, computed by torch's own; ``device`` is where."""
        self._processor.to(device)
        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.set_processor, layer.processor)
                layer.set_processor(self._processor)
            yield

    def labelled(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Conditions of all views with the labels of their rows."""
        count = self._processor.count
        if count != num_views:
            raise ValueError(
                f"neighbours has the neighbours of {count} views, and the canvas has {num_views} views: pass one list "
                "a view."
            )
        labels = torch.arange(count)
        halves = []
        for half, first in ((cond, count), (uncond, 0)):
            told = None if half is None else half.updated(**{VIEW_LABELS: (labels + first).to(_device_of(half))})
            halves.append(told)
        return halves[0], halves[1]

    def row_order(self, cond: Conditions | None) -> torch.Tensor:
        """A call's rows [B], int64, in the order in which attention takes them: by half, then by view.

        Raises:
            ValueError: conditions without labels; not all views are there, or some are there twice.
        """
        count = self._processor.count
        if cond is None or VIEW_LABELS not in cond:
            raise ValueError(
                "shared self-attention has to know the views of a call: pass what prior.prepare_conditions(cond, "
                "uncond, num_views) gives, as fastsync.sample does."
            )
        labels: torch.Tensor = cond[VIEW_LABELS]
        found, order = labels.sort()
        # On a GPU the host waits here, once a call: attention over other views than meant would go unseen.
        expected = torch.arange(len(labels), device=labels.device) + found[0] // count * count
        if len(labels) % count or not torch.equal(found, expected):
            raise ValueError(
                f"shared self-attention (neighbours=) needs each of the {count} views once in every network call, and "
                f"one has {len(labels.remainder(count).unique())} in {len(labels)} rows: use order='batched' and "
                "max_batch=None, with a method whose views do not wait for each other, such as SyncTweedies."
            )
        return order


def _device_of(cond: Conditions) -> torch.device:
    """Where the rows of conditions are."""
    rows = next(iter(cond.rows.values()))
    return (rows[0] if isinstance(rows, list) else rows).device


class _Processor:
    """diffusers' attention processor for rows that are whole halves of N views, in order."""

    def __init__(self, neighbours: list[list[int]]) -> None:
        self.count = len(neighbours)
        most = max(map(len, neighbours))
        # Rows that have fewer are filled up with their own view, which the mask takes out again.
        self.seen = torch.tensor([views + views[:1] * (most - len(views)) for views in neighbours])
        lengths = torch.tensor([len(views) for views in neighbours])
        self.mask = None if bool((lengths == most).all()) else torch.arange(most) < lengths[:, None]

    def to(self, device: torch.device) -> None:
        self.seen = self.seen.to(device)
        self.mask = None if self.mask is None else self.mask.to(device)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As AttnProcessor2_0 in a BasicTransformerBlock, [B, S, D], keys and values being those of all seen views."""
        heads = (attn.heads, -1)
        # Gathered after the projection: every view's keys are computed once.
        query, key, value = (
            states.unflatten(2, heads).transpose(1, 2)
            for states in (
                attn.to_q(hidden_states),
                self._gathered(attn.to_k(hidden_states)),
                self._gathered(attn.to_v(hidden_states)),
            )
        )
        mask = None
        if self.mask is not None:
            length = hidden_states.shape[1]
            mask = self.mask.repeat_interleave(length, 1).repeat(len(hidden_states) // self.count, 1)[:, None, None]
        out = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))

    def _gathered(self, states: torch.Tensor) -> torch.Tensor:
        """[B, S, D] of the views to [B, K S, D] of what each of them sees."""
        return states.unflatten(0, (-1, self.count))[:, self.seen].flatten(2, 3).flatten(0, 1)


def _checked(neighbours: Any) -> list[list[int]]:
    """Each view itself, then its neighbours, without repetition."""
    if isinstance(neighbours, str) or not isinstance(neighbours, Sequence) or not neighbours:
        raise TypeError(
            f"neighbours must be a list of lists of view indices, one a view, got {shown(neighbours)}: pass e.g. "
            "fastsync.priors.view_ring(8)."
        )
    checked = []
    for i, views in enumerate(neighbours):
        if isinstance(views, str) or not isinstance(views, Sequence):
            raise TypeError(f"neighbours[{i}] must be a list of view indices, got {shown(views)}: pass e.g. [0, 2].")
        found = [check_int(f"each view in neighbours[{i}]", j, minimum=0) for j in views]
        if max(found, default=0) >= len(neighbours):
            raise ValueError(
                f"neighbours[{i}] must hold views 0 to {len(neighbours) - 1}, as neighbours has {len(neighbours)} "
                f"lists, got {max(found)}."
            )
        checked.append(list(dict.fromkeys([i, *found])))
    return checked
