"""What `bench/test_mesh.py` measures: a mesh of 40,000 faces, cameras around it, and the ways to bake and to render.

Views are what a step of sampling merges: one painting of the surface, on which they differ by a tenth of its range.
"""

import cProfile
import math
import pstats
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.reference import GRID, Descent, TextureFit, TextureScatter, scattered, tuned
from bench.timing import cpu_seconds
from bench.workloads import Variant
from fastsync import MeshCanvas, ops
from fastsync.geometry import Camera, Mesh
from fastsync.geometry.sight import _Embree

CAP = 500  # iterations after which a fit is given up
DISAGREEMENT = 0.1  # of the views, the painting having a standard deviation of about 0.7
STEP, BAKE, RENDER, OP = "fastsync", "fastsync, bake", "fastsync, render", "fastsync, uv_accumulate"
SCATTER, BARE, GRID_SAMPLE = "scatter_add_, gather", "bare scatter_add_", "scatter_add_, grid_sample"
FITS = {f"fitted, {kind}": kind for kind in GRID}
# As differentiable renderers have it, which rasterise whenever they render.
RASTERISED = {f"{name}, rasterising": name for name in FITS}


@dataclass(frozen=True)
class Scene:
    """One canvas, and its views.

    Attributes:
        figure: ``"steps"``, a step against all baselines; else what grows, ``"views"`` or ``"texture"``.
        view, texture: sides; ``texture`` None is the one that MeshCanvas chooses.
        quads: along each edge of the mesh's six sides.
    """

    name: str
    figure: str
    views: int
    view: int
    channels: int
    texture: int | None
    quads: int = 58


SCENES = (
    Scene("10 views of 64, latents", "steps", 10, 64, 4, None),
    Scene("10 views of 512, texture 1024", "steps", 10, 512, 3, 1024),
    *(Scene(f"{n} views of 512, texture 1024", "views", n, 512, 3, 1024) for n in (2, 5, 20, 40)),
    *(Scene(f"10 views of 256, texture {side}", "texture", 10, 256, 3, side) for side in (256, 512, 1024, 2048, 4096)),
)
QUICK = (
    Scene("3 views of 16, latents", "steps", 3, 16, 4, None, 6),
    Scene("3 views of 32, texture 64", "steps", 3, 32, 3, 64, 6),
    *(Scene(f"{n} views of 32, texture 64", "views", n, 32, 3, 64, 6) for n in (2, 5)),
    *(Scene(f"3 views of 32, texture {side}", "texture", 3, 32, 3, side, 6) for side in (32, 128)),
)
# Stages of building a canvas: the functions whose time they are, each called by MeshCanvas itself.
STAGES = {
    "texture coordinates checked": ("unwrap.py", "unwrap"),
    "rays cast": ("sight.py", "see"),
    "texels of the charts": ("texels.py", "rasterize"),
    "bilinear taps": ("mesh.py", "_bilinear"),
    "taps sorted": ("taps.py", "sort"),
    "texels between pixels": ("mesh.py", "_reading"),
    "a texel of its own for each pixel": ("mesh.py", "_own_cells"),
}


def globe(quads: int) -> Mesh:
    """A bumpy ball of ``12 quads**2`` faces, its six sides squares in the texture with a margin around each."""
    step = np.linspace(-1, 1, quads + 1)
    b, a = np.meshgrid(step, step, indexing="ij")
    corner = np.arange((quads + 1) ** 2).reshape(quads + 1, quads + 1)
    around = [part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1])]
    square = np.concatenate([np.stack([around[k] for k in triangle], 1) for triangle in ((0, 1, 2), (0, 2, 3))])
    vertices, faces, uv = [], [], []
    for side in range(6):
        axis, sign = side // 2, 1 - 2 * (side % 2)
        point = np.empty((*a.shape, 3))
        # The second of two opposite sides is mirrored, so that both are seen counter-clockwise from outside.
        point[..., axis], point[..., (axis + 1) % 3], point[..., (axis + 2) % 3] = sign, sign * a, b
        point /= np.linalg.norm(point, axis=-1, keepdims=True)
        x, y, z = np.moveaxis(point, -1, 0)
        point *= 1 + 0.04 * (np.sin(9 * x + 2 * y) * np.cos(8 * y - z) + np.sin(7 * z + 3 * x))[..., None]
        vertices.append(point.reshape(-1, 3))
        faces.append(side * corner.size + square)
        place = (np.stack([a, b], -1) * 0.47 + 0.5 + [side % 3, side // 3]) / [3, 2]
        uv.append(place.reshape(-1, 2))
    return Mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(uv))


def cameras(count: int) -> list[Camera]:
    """So many cameras all around, spread evenly over a band of elevations up to 45 degrees."""
    heights = [0.7 * (2 * (i + 0.5) / count - 1) for i in range(count)]
    return [Camera(137.508 * i, math.degrees(math.asin(height))) for i, height in enumerate(heights)]


def canvas_of(scene: Scene, mesh: Mesh | None = None, progress: bool = False) -> MeshCanvas:
    """The canvas of a scene; every mesh keeps what it has computed, so each new one is built from nothing."""
    mesh = globe(scene.quads) if mesh is None else mesh
    return MeshCanvas(mesh, cameras(scene.views), scene.texture, scene.view, "embree", progress=progress)


def build_seconds(scene: Scene, rounds: int) -> list[float]:
    """How long building the canvas takes, its progress bar shown as a user sees it."""
    return [_built(scene, progress=True) for _ in range(rounds)]


def _built(scene: Scene, progress: bool) -> float:
    mesh = globe(scene.quads)
    return cpu_seconds(lambda: canvas_of(scene, mesh, progress), 1)


def stages(scene: Scene) -> dict[str, float]:
    """Seconds of each stage of building, and of what lies between; of one more run, watched by a profiler."""
    mesh, profiler = globe(scene.quads), cProfile.Profile()
    with profiler:
        canvas_of(scene, mesh)
    stats: Mapping[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    found = dict.fromkeys(STAGES, 0.0)
    whole = 0.0
    for (file, _, function), (_, _, _, total, _) in stats.items():
        for stage, (where, name) in STAGES.items():
            if function == name and file.endswith(f"/{where}"):
                found[stage] = total
        if function == "canvas_of":
            whole = total
    return {**found, "the rest": whole - sum(found.values())}


def held(canvas: MeshCanvas) -> int:
    """Bytes of all tensors and arrays that a canvas keeps, each storage once; the mesh itself is not counted."""
    sizes: dict[int, int] = {}
    for table in _tables(vars(canvas)):
        if isinstance(table, Tensor):
            sizes[table.untyped_storage().data_ptr()] = table.untyped_storage().nbytes()
        else:
            sizes[table.ctypes.data] = table.nbytes
    return sum(sizes.values())


def _tables(value: Any) -> Iterator[Tensor | np.ndarray]:
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tables(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tables(part)
    elif is_dataclass(value) and not isinstance(value, (Mesh, type)):
        yield from _tables({**{field.name: getattr(value, field.name) for field in fields(value)}, **vars(value)})


def views_of(canvas: MeshCanvas, channels: int) -> Tensor:
    """Views [N, C, h, w] of a painting of the surface, C at most 4.

    Each view has its own smooth deviation, since views of one step have not seen one another.
    """
    x, y, z = canvas.sight.points.unbind(-1)
    waves = [
        (9 * x + 3 * y).sin() * (2 * z).cos(),
        (12 * y - 4 * z).cos(),
        (8 * z + 9 * x * y).sin(),
        (16 * x * z + 2 * y).sin(),
    ]
    coarse = torch.randn(canvas.num_views, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    deviation = interpolate(coarse, size=canvas.sight.size, mode="bicubic")
    return ((torch.stack(waves[:channels], 1) + DISAGREEMENT * deviation) * canvas.foreground).contiguous()


def grid_of(canvas: MeshCanvas) -> Tensor:
    """[N, h, w, 2], where the pixels read the texture, as ``grid_sample`` has it; 0 beside the mesh."""
    mesh, face = canvas.mesh, canvas.sight.face
    assert mesh.uv is not None and mesh.uv_faces is not None
    uv = torch.from_numpy(mesh.uv[mesh.uv_faces])[face.clamp_min(0).long()]
    u, v = torch.einsum("nhwk,nhwkd->nhwd", canvas.sight.barycentric.double(), uv).unbind(-1)
    place = torch.stack([2 * u - 1, 1 - 2 * v], -1)
    return (place * canvas.foreground[:, 0, ..., None]).float()


@dataclass(frozen=True)
class Fitted:
    """A descent that is timed by the iteration: how many of them it takes, and whether that is enough."""

    descent: str
    iterations: int
    reached: bool


@dataclass(frozen=True)
class Course:
    """The variants of a scene, and what the fits among them need to come as near to the views as our bake."""

    variants: list[Variant]
    fitted: dict[str, Fitted]
    residual: float


def course_of(scene: Scene, canvas: MeshCanvas, device: str, cap: int = CAP) -> Course:
    """All that is timed of a scene, on a device.

    A step is what sampling does: ``project(merge(views))``, the normalised splat. Fits are given its residual to reach.
    """
    views, grid = views_of(canvas, scene.channels).to(device), grid_of(canvas).to(device)
    foreground, size = canvas.foreground.to(device), canvas.size
    confidence = (canvas.sight.cosine.clamp_min(0.1) ** 4)[:, None].to(device)
    z = canvas.merge(views)
    scatter = TextureScatter(grid, foreground, confidence, size)
    variants = [
        Variant(STEP, lambda: canvas.project(canvas.merge(views))),
        Variant(BAKE, lambda: canvas.merge(views)),
        Variant(RENDER, lambda: canvas.project(z)),
        Variant(SCATTER, lambda: scatter.render(scatter.bake(views))),
    ]
    if scene.figure != "steps":
        return Course(variants, {}, 0.0)

    def fit(descent: Descent, batches: int = 1) -> TextureFit:
        return TextureFit(views, grid, foreground, size, descent, batches)

    # Where the processor is better used by several batches, the fits have them.
    batches = min({1, torch.get_num_threads() if device == "cpu" else 1}, key=lambda n: _iteration(fit, n))
    plain = fit(GRID["SGD"][0], batches)
    residual = plain.residual(z)
    trusted, products = scatter.trusted.reshape(1, -1), scatter.products(views)
    variants += [
        Variant(GRID_SAMPLE, lambda: plain.render(scatter.bake(views))),
        Variant(OP, lambda: ops.uv_accumulate(views, confidence, canvas._taps)),
        Variant(BARE, lambda: (scattered(products, scatter.flat, size), scattered(trusted, scatter.flat, size))),
    ]
    fitted = {}
    for name, kind in FITS.items():
        descent, count = tuned(lambda d: fit(d, batches), GRID[kind], residual, cap)
        fitted[name] = Fitted(str(descent), cap if count is None else count, count is not None)
        variants.append(Variant(name, fit(descent, batches).step))
    caster = _Embree(canvas.mesh)
    for name, bare in RASTERISED.items():
        fitted[name] = fitted[bare]
        step = next(variant.run for variant in variants if variant.name == bare)
        variants.append(Variant(name, partial(_rendered, canvas, caster, step)))
    return Course(variants, fitted, residual)


def _rendered(canvas: MeshCanvas, caster: _Embree, step: Callable[[], Any]) -> None:
    """An iteration of a fit whose renderer looks again what each pixel sees."""
    for camera in canvas.cameras:
        caster.cast(camera, canvas.sight.size)
    step()


def _iteration(fit: Callable[[Descent, int], TextureFit], batches: int) -> float:
    step = fit(GRID["SGD"][0], batches).step
    step()
    return min(cpu_seconds(step, 1) for _ in range(5))
