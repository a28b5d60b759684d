"""Self-attention over all cells of a map, in bounded memory: every block of queries meets every block of keys.

Softmax is summed up block by block with a running maximum (Milakov and Gimelshein 2018, "Online normalizer calculation
for softmax"), so neither the matrix nor queries, keys and values of all cells are ever in memory together.
"""

from __future__ import annotations

from typing import Any

import torch

from .maps import Map, Maps
from .strips import Norm, at_once, strips

_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor")  # all compute the same


def attend(layer: Any, x: Map, maps: Maps) -> Map:
    """diffusers' Attention as an autoencoder has it in its middle; x is closed.

    The layer itself runs while what it makes of the map fits the budget of ``maps``, or where it has a part that is not
    known here.
    """
    # Its temporaries: normalised cells, queries, keys, values, result, and the sum.
    if maps.fits(5 * maps.size_of(x.shape)) or not _is_known(layer):
        result = maps.filled(layer(x.whole()))
        maps.close(x)
        return result
    return _in_blocks(layer, x, maps)


def _is_known(layer: Any) -> bool:
    return (
        type(layer).__name__ == "Attention"
        and type(layer.processor).__name__ in _PROCESSORS
        and type(layer.group_norm) is torch.nn.GroupNorm
        and layer.residual_connection
        and all(getattr(layer, name, None) is None for name in ("spatial_norm", "norm_q", "norm_k"))
    )


def _in_blocks(layer: Any, x: Map, maps: Maps) -> Map:
    norm = Norm(layer.group_norm, None, x)
    size = x.shape[2:]
    keys, values = (maps.new(linear.out_features, size) for linear in (layer.to_k, layer.to_v))
    for strip in strips(x, 0, 0):
        tokens = norm(strip.cells).flatten(2).transpose(1, 2)  # [1, n, C]
        for linear, kept in ((layer.to_k, keys), (layer.to_v, values)):
            kept.write(strip.start, linear(tokens).transpose(1, 2).unflatten(2, strip.cells.shape[2:]))
    out = maps.new(x.shape[1], size)
    for strip in strips(x, 0, 0):
        queries = _heads(layer.to_q(norm(strip.cells).flatten(2).transpose(1, 2)).transpose(1, 2), layer.heads)
        found = _attended(queries, keys, values, layer.heads).transpose(1, 2).flatten(2)[0]  # [n, C]
        mixed = layer.to_out[1](layer.to_out[0](found.to(x.dtype)))
        mixed = mixed.T.reshape(strip.cells.shape)
        out.write(strip.start, (mixed + strip.cells) / layer.rescale_output_factor)
    maps.close(x, keys, values)
    return out


def _heads(cells: torch.Tensor, heads: int) -> torch.Tensor:
    """[1, C, ...] as [1, heads, n, C / heads], at least in float32."""
    wide = torch.promote_types(cells.dtype, torch.float32)
    return cells.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3).to(wide)


def _attended(queries: torch.Tensor, keys: Map, values: Map, heads: int) -> torch.Tensor:
    """Softmax(q k' / sqrt(d)) v, [1, heads, n, d], of all keys."""
    queries = queries * queries.shape[-1] ** -0.5
    highest = queries.new_full((*queries.shape[:-1], 1), -torch.inf)
    weight, total = torch.zeros_like(highest), torch.zeros_like(queries)
    count = at_once(heads * queries.shape[2])
    for strip in strips(keys, 0, 0):
        blocks = (_heads(cells, heads).split(count, 2) for cells in (strip.cells, values.read(strip.start, strip.stop)))
        for k, v in zip(*blocks, strict=True):
            scores = queries @ k.transpose(2, 3)
            above = torch.maximum(highest, scores.amax(-1, keepdim=True))
            scores = scores.sub_(above).exp_()
            fade = (highest - above).exp_()
            weight = weight * fade + scores.sum(-1, keepdim=True)
            total = total.mul_(fade).add_(scores @ v)
            highest = above
    return total / weight
