"""Each method as its paper describes it, in plain PyTorch: the baseline for speed and the oracle for numbers.

Nothing of fastsync is imported here. One view after the other where the authors do so, autograd and torch.optim where
they use them, no fused ops. What is not the method's own is as good as ours, so that ratios are fair: the same network,
attention and precision, guidance's two halves in one batch, the same steps, frozen weights. Windows of a plane only.

Of meshes only the step between views and texture: fitted by descent (`texture_fit`) and scattered (`texture_scatter`).
"""

from bench.reference.model import Model
from bench.reference.multidiffusion import multidiffusion, multidiffusion_batched
from bench.reference.stochsync import stochsync
from bench.reference.syncdiffusion import syncdiffusion
from bench.reference.syncsde import syncsde
from bench.reference.synctweedies import synctweedies
from bench.reference.syncvc import syncvc
from bench.reference.texture_fit import GRID, Descent, TextureFit, tuned
from bench.reference.texture_scatter import TextureScatter, scattered

__all__ = [
    "GRID",
    "Descent",
    "Model",
    "TextureFit",
    "TextureScatter",
    "multidiffusion",
    "multidiffusion_batched",
    "scattered",
    "stochsync",
    "syncdiffusion",
    "syncsde",
    "synctweedies",
    "syncvc",
    "tuned",
]
