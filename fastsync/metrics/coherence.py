"""Do the parts of one picture belong together, and are they still sharp?

Half precision is computed in float32, float64 stays float64. Results have the batch shape of the input.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BINS = 8


def hsv_histogram(image: Tensor) -> Tensor:
    """Joint histogram over hue, saturation and value, `BINS` equal bins each.

    `image`: floating `[..., 3, H, W]`, RGB in [0, 1]. Returns `[..., 8, 8, 8]` (hue, saturation, value) that sums to 1
    over the last three dimensions. The value 1 falls into the last bin; grey has hue 0. Raises `TypeError` or
    `ValueError` for anything else than pictures in [0, 1].
    """
    bins = (_hsv(_pictures(image)) * BINS).long().clamp_(max=BINS - 1)
    hue, saturation, value = bins.flatten(-2).unbind(-2)
    joint = (hue * BINS + saturation) * BINS + value
    counts = image.new_zeros(*joint.shape[:-1], BINS**3, dtype=_computing_dtype(image))
    counts.scatter_add_(-1, joint, torch.ones_like(joint, dtype=counts.dtype))
    return (counts / joint.shape[-1]).unflatten(-1, (BINS, BINS, BINS))


def chi_square(p: Tensor, q: Tensor) -> Tensor:
    """`sum (p-q)^2 / (p+q)` of two histograms `[..., 8, 8, 8]`; bins empty in both count 0. From 0 (equal) to 2."""
    total = p + q
    return torch.where(total > 0, (p - q) ** 2 / total.where(total > 0, 1), 0).sum((-3, -2, -1))


def intersection(p: Tensor, q: Tensor) -> Tensor:
    """`sum min(p, q)` of two histograms `[..., 8, 8, 8]`. From 0 (nothing in common) to 1 (equal)."""
    return torch.minimum(p, q).sum((-3, -2, -1))


def histogram_distance(
    picture: Tensor,
    window: tuple[int, int],
    compare: Callable[[Tensor, Tensor], Tensor] = chi_square,
) -> Tensor:
    """How different the windows of a picture look: `compare` averaged over all pairs of non-overlapping crops.

    `picture`: floating `[..., 3, H, W]` in [0, 1]; `window`: (height, width) of a crop. As many crops as fit side by
    side are spread evenly, the first and last flush with the border. Returns `[...]`. Raises `ValueError` where the
    picture holds fewer than two crops.
    """
    height, width = window
    rows, columns = _spread(picture.shape[-2], height), _spread(picture.shape[-1], width)
    if len(rows) * len(columns) < 2:
        raise ValueError(
            f"histogram_distance got a picture of {tuple(picture.shape[-2:])} and a window of {(height, width)}; "
            "it needs room for two windows that do not overlap: use a smaller window."
        )
    histograms = [hsv_histogram(picture[..., y : y + height, x : x + width]) for y in rows for x in columns]
    first, second = torch.combinations(torch.arange(len(histograms))).unbind(-1)
    stacked = torch.stack(histograms)
    return compare(stacked[first], stacked[second]).mean(0)


def overlap_disagreement(
    views: Tensor,
    origins: Sequence[tuple[int, int]],
    loop_width: int | None = None,
    loop_height: int | None = None,
) -> Tensor:
    """Mean |difference| of two views' samples on the cells that both cover, over all pairs of views and their cells.

    `views`: `[N, C, h, w]`; `origins`: the (y, x) of each view's upper left cell on the canvas; `loop_width` and
    `loop_height`: the canvas's sides where they close to a loop. Returns a scalar in the units of `views`. Raises
    `ValueError` where no two views meet.
    """
    if views.ndim != 4 or views.shape[0] != len(origins):
        raise ValueError(
            f"overlap_disagreement got views of shape {tuple(views.shape)} and {len(origins)} origins; "
            "it needs [N, C, h, w] and N origins."
        )
    views = views.to(_computing_dtype(views))
    rows, columns = ((0,) if side is None else (-side, 0, side) for side in (loop_height, loop_width))
    differences = []
    for j, (y_j, x_j) in enumerate(origins):
        for i, (y_i, x_i) in enumerate(origins[:j]):
            for down, right in itertools.product(rows, columns):
                here, there = _common(views[i], views[j], y_j - y_i + down, x_j - x_i + right)
                differences.append((here - there).abs().flatten())
    common = torch.cat(differences) if differences else views.new_empty(0)
    if common.numel() == 0:
        raise ValueError(
            f"overlap_disagreement got {len(origins)} views that share no cell; it needs at least two that overlap."
        )
    return common.mean()


def crispness(image: Tensor) -> Tensor:
    """Share of a picture's spectral energy above a quarter of the sampling rate, in [0, 1].

    Energy is `|FFT|^2` summed over the channels, the frequency of a coefficient is `sqrt(f_y^2 + f_x^2)` in cycles a
    pixel, and a coefficient counts as high above 0.25 (half of Nyquist along an axis). Before the transform a separable
    Hann window is applied, so that the picture's opposite borders, which do not match, add no energy of their own, and
    each channel's mean under that window is removed. A flat picture has crispness 0.

    `image`: floating `[..., 3, H, W]` in [0, 1]. Returns `[...]`. Compare pictures of one size only.
    """
    image = _pictures(image)
    height, width = image.shape[-2:]
    like: dict[str, Any] = {"dtype": image.dtype, "device": image.device}
    window = _hann(height, **like)[:, None] * _hann(width, **like)
    mean = (window * image).sum((-2, -1), keepdim=True) / window.sum()
    energy = torch.fft.fft2((image - mean) * window).abs().square().sum(-3)
    frequency = torch.hypot(torch.fft.fftfreq(height, **like)[:, None], torch.fft.fftfreq(width, **like))
    total = energy.sum((-2, -1))
    high = (energy * (frequency > 0.25)).sum((-2, -1))
    # By Parseval, the energy of a contrast of a few rounding errors: below it the picture is flat.
    flat = 3 * height * width * window.square().sum() * (8 * torch.finfo(image.dtype).eps) ** 2
    return torch.where(total > flat, high / total.clamp_min(flat), 0)


def _computing_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _pictures(image: Tensor) -> Tensor:
    """`image` in its computing dtype, after the checks that all measures of pictures share."""
    if not image.is_floating_point():
        raise TypeError(f"image has dtype {image.dtype}; it needs floating RGB in [0, 1]: divide bytes by 255.")
    if image.ndim < 3 or image.shape[-3] != 3 or image.numel() == 0:
        raise ValueError(f"image has shape {tuple(image.shape)}; it needs [..., 3, H, W].")
    # Written so that NaN fails as well.
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError("image holds values outside [0, 1] (or NaN); it needs RGB in [0, 1]: clamp it first.")
    return image.to(_computing_dtype(image))


def _hsv(rgb: Tensor) -> Tensor:
    """`[..., 3, H, W]` RGB to HSV, all in [0, 1]."""
    red, green, blue = rgb.unbind(-3)
    value, lowest = rgb.amax(-3), rgb.amin(-3)
    chroma = value - lowest
    divisor = chroma.where(chroma > 0, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = torch.where(chroma > 0, (sixths / 6) % 1, 0)
    saturation = chroma / value.where(value > 0, 1)
    return torch.stack([hue, saturation, value], -3)


def _spread(size: int, window: int) -> list[int]:
    """Starts of the most windows that fit into `size` without overlap, spread evenly from border to border."""
    if window < 1:
        raise ValueError(f"window has a side of {window}; it needs at least 1.")
    count = size // window
    return [0] if count == 1 else [i * (size - window) // (count - 1) for i in range(count)]


def _common(first: Tensor, second: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """What two views `[C, h, w]` hold on their common cells, the second lying (dy, dx) from the first; may be empty."""
    height, width = first.shape[-2:]
    if abs(dy) >= height or abs(dx) >= width:
        return first[..., :0, :0], second[..., :0, :0]
    here = first[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    there = second[..., max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return here, there


def _hann(size: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    # The symmetric form over size + 2 points without its zero ends: no pixel is thrown away, size 1 works.
    return torch.hann_window(size + 2, periodic=False, dtype=dtype, device=device)[1:-1]
