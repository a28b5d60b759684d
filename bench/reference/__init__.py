"""Each method as its paper describes it, in plain PyTorch: the baseline for speed and the oracle for numbers.

Nothing of fastsync is imported here. One view after the other where the authors do so, autograd and torch.optim where
they use them, no fused ops. What is not the method's own is as good as ours, so that ratios are fair: the same network,
attention and precision, guidance's two halves in one batch, the same steps, frozen weights.

Views are `Windows` of a plane, cut out and compared by slices, which is what is raced; SyncSDE and SyncVC also take
`Cells`, by which a view may show any cells of a canvas, and which the tests use.

Of meshes only the step between views and texture: fitted by descent (`texture_fit`) and scattered (`texture_scatter`).
"""

from bench.reference.cells import Cells
from bench.reference.model import Model
from bench.reference.multidiffusion import multidiffusion, multidiffusion_batched
from bench.reference.stochsync import stochsync
from bench.reference.syncdiffusion import syncdiffusion
from bench.reference.syncsde import syncsde
from bench.reference.synctweedies import synctweedies
from bench.reference.syncvc import syncvc
from bench.reference.texture_fit import GRID, Descent, TextureFit, tuned
from bench.reference.texture_scatter import TextureScatter, scattered
from bench.reference.windows import Windows

__all__ = [
    "GRID",
    "Cells",
    "Descent",
    "Model",
    "TextureFit",
    "TextureScatter",
    "Windows",
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
