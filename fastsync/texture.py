"""The task of texturing a mesh: views under depth control, and the texture baked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from .canvases import MeshCanvas
from .conditions import Conditions
from .errors import check_choice, check_int, check_number, shown
from .geometry import Camera, TexturedMesh, depth_maps, unwrap
from .geometry.sight import Rasterizer
from .guidance import Guidance
from .metadata import recorded
from .methods import Method
from .priors import PipelinePrior
from .priors.backdrop import BackdropPrior
from .rewards import SurfaceOverlap
from .sampler import SyncOutput
from .task import Options, SyncPipelineOutput, check_prompts, method_of, run

TEXTURE_SIZE = 1024
Agreement = Literal["auto", "latents", "pixels"]
_TURNABLE = 4  # channels of latents that are nearly small pictures
BESIDE_EDGES = 1e-3  # weight of a pixel whose colour the decoder mixed with what is beside the object
_SMALLEST, _LARGEST = 16, 8192


@dataclass(frozen=True)
class SyncTextureOutput(SyncPipelineOutput):
    """What :meth:`fastsync.SyncPipeline.texture` returns: the texture is the picture.

    Attributes:
        textured: the mesh with its texture, to be saved (:class:`fastsync.geometry.TexturedMesh`).
        pictures: the sampled views, decoded, PIL images; what they show in common the texture is made of.
    """

    textured: TexturedMesh
    pictures: list[Image.Image]


@dataclass(frozen=True)
class TextureOptions:
    """What :meth:`fastsync.SyncPipeline.texture` takes beside mesh, prompt and the options of all tasks, checked."""

    cameras: Sequence[Camera | tuple[float, ...]] | None
    texture_size: int
    view_prompts: bool
    reunwrap: bool
    rasterizer: Rasterizer
    agreement: Agreement
    shared_attention: bool
    conditioning_scale: float

    def __post_init__(self) -> None:
        if check_int("texture_size", self.texture_size, minimum=_SMALLEST) > _LARGEST:
            raise ValueError(f"texture_size must be at most {_LARGEST}, got {self.texture_size}: choose a smaller one.")
        for name in ("view_prompts", "reunwrap", "shared_attention"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {shown(getattr(self, name))}.")
        check_choice("agreement", self.agreement, ("auto", "latents", "pixels"))
        check_number("conditioning_scale", self.conditioning_scale)


def texture(
    make_prior: Callable[..., PipelinePrior],
    name: str,
    mesh: Any,
    prompt: str | Sequence[str] | None,
    given: TextureOptions,
    guidance_scale: float | Guidance | None,
    options: Options,
) -> SyncTextureOutput:
    """As :meth:`fastsync.SyncPipeline.texture`.

    Args:
        make_prior: a pipeline's prior for the options' window, with ``conditioning_scale`` and ``neighbours`` as
            :func:`fastsync.priors.wrap` takes them.
        name: of the model, for the output's parameters.
    """
    if options.get("output_type") == "latent":
        raise ValueError(
            "output_type must be 'pil', 'np' or 'pt' for a texture, got 'latent', which has no texture: the sampled "
            "views are in the output's views anyway."
        )
    if options.get("control_image") is not None:
        raise ValueError(
            "control_image was given to texture(), which shows the model the mesh's own depth: leave it out."
        )
    prior = _depth_prior(make_prior, given)
    progress, scale = options.get("progress", True), prior.scale
    placed = unwrap(mesh, reunwrap=given.reunwrap, progress=progress)
    pixels = prior.window_pixels
    # What a texture is made of in the end; and what tells the model of the mesh.
    fine = MeshCanvas(
        placed, given.cameras, view_size=pixels, rasterizer=given.rasterizer, progress=progress, units="pixels"
    )
    in_pixels = given.agreement == "pixels" or (given.agreement == "auto" and prior.view_shape[0] > _TURNABLE)
    method = _method(options, fine, in_pixels and scale > 1, _margin(scale))
    if given.agreement == "pixels" and not (_merges_pixels(method) or method.takes_pixels):
        raise ValueError(
            f"agreement='pixels' is for method='syncvc', 'synctweedies' and 'stochsync', got {type(method).__name__}: "
            "leave it out, or give a SyncVC of your own rewards=[SurfaceOverlap(sight)]."
        )
    canvas = fine
    if not (method.prefers_pixels or (in_pixels and method.takes_pixels)):
        canvas = MeshCanvas(placed, fine.cameras, view_size=prior.window, rasterizer=given.rasterizer)
    if given.shared_attention:
        prior = _depth_prior(make_prior, given, neighbours=nearest_views(fine.cameras))
    texts = check_prompts(prompt, canvas.num_views, "camera", options)
    if given.view_prompts and texts is not None and len(texts) == 1:
        texts = [f"{texts[0]}, {camera.side} view" for camera in canvas.cameras]
    beside = torch.nn.functional.max_pool2d(fine.foreground.float(), scale) == 0

    over = BackdropPrior(prior)

    def conditioner(cond: Any, uncond: Any, generator: torch.Generator) -> tuple[Conditions | None, Conditions | None]:
        colours = torch.rand(canvas.num_views, 3, 1, 1, generator=generator, device=generator.device)
        flat = (2 * colours - 1).expand(-1, -1, *pixels).to(prior.device)
        with torch.no_grad():
            grounds = torch.cat([prior.encode(part).float() for part in flat.split(4)])
        where = beside.to(prior.device)  # one tensor for both halves
        both = [c if c is None else over.with_backdrop(c, grounds, where) for c in (cond, uncond)]
        return both[0], both[1]

    found: dict[str, torch.Tensor] = {}

    def paint(out: SyncOutput) -> torch.Tensor:
        views = out.views if canvas is fine else torch.cat([prior.decode(part) for part in out.views.split(4)])
        found["views"] = views.float().clamp(-1, 1).cpu()
        found["texture"] = bake(fine, found["views"], given.texture_size, scale)
        return found["texture"]

    out = run(
        over,
        canvas,
        method,
        texts,
        paint,
        {
            "task": "texture",
            "model": name,
            "mesh": str(mesh) if isinstance(mesh, str) or hasattr(mesh, "__fspath__") else type(mesh).__name__,
            "mesh_digest": placed.digest,
            "prompt": recorded(prompt),
            "cameras": [_plain(camera) for camera in canvas.cameras],
            "texture_size": int(given.texture_size),
            "view_prompts": given.view_prompts,
            "reunwrap": given.reunwrap,
            "rasterizer": given.rasterizer,
            "agreement": "pixels" if _merges_pixels(method) or canvas is fine else "latents",
            "shared_attention": given.shared_attention,
            "conditioning_scale": float(given.conditioning_scale),
        },
        guidance_scale,
        options,
        control=depth_maps(fine.sight),
        view="camera",
        conditioner=conditioner,
    )
    return SyncTextureOutput(
        **vars(out),
        textured=TexturedMesh(mesh, placed, _images(found["texture"])[0]),
        pictures=_images(found["views"]),
    )


def _depth_prior(make_prior: Callable[..., PipelinePrior], given: TextureOptions, **asked: Any) -> PipelinePrior:
    prior = make_prior(conditioning_scale=given.conditioning_scale, **asked)
    if not prior.takes_control:
        raise ValueError(
            "texture() needs a model that is shown the mesh's depth, and this one is not: use "
            "SyncPipeline.from_zoo('scenes-depth'), or from_pretrained(model, controlnet=a ControlNet of depth)."
        )
    return prior


def _method(options: Options, fine: MeshCanvas, in_pixels: bool, margin: int) -> Method:
    """The method of the options; SyncVC by its name has settings of its own here: most of a view is shared."""
    settings: dict[str, Any] = {}
    if options.get("preset") in (None, "quality"):
        settings["iterations"] = 3
    if in_pixels:
        # Noise is compared in latents alone, so there is no coupling.
        settings |= {"inv_lambda": 0.0, "reward_weight": 0.0, "lr": 0.05}
        settings["rewards"] = [SurfaceOverlap(fine.sight, margin=margin)]
    return method_of(options, **settings)


def _margin(cell: int) -> int:
    """How far a decoder mixes colours across an edge, in pixels; ``cell``: pixels of a latent cell."""
    return max(1, cell // 4)


def _merges_pixels(method: Method) -> bool:
    """Whether views are compared as pictures."""
    return any(isinstance(reward, SurfaceOverlap) for reward in getattr(method, "rewards", ()))


def _plain(camera: Camera) -> list[float | bool]:
    """A camera as JSON has it."""
    numbers = (camera.azimuth, camera.elevation, camera.distance, camera.fov)
    return [*map(float, numbers), bool(camera.orthographic)]


def nearest_views(cameras: Sequence[Camera]) -> list[list[int]]:
    """For each camera the two others that look from the nearest sides."""
    ahead = torch.stack([camera.axes[2] for camera in cameras])
    alike = (ahead @ ahead.T).fill_diagonal_(-2.0)
    return [row.topk(min(2, len(cameras) - 1)).indices.tolist() for row in alike]


def bake(canvas: MeshCanvas, views: torch.Tensor, side: int, margin: int) -> torch.Tensor:
    """A square texture float32 [1, 3, side, side] of decoded views [N, 3, H, W].

    Baked at the views' own fineness and then enlarged: what is finer than pixels nobody has seen. Pixels within
    ``margin / 4`` of an edge hardly count where others see the same, ``margin`` being the pixels of a latent cell.
    """
    edges = canvas.sight.beside_edges(_margin(margin))[:, None]
    weights = torch.where(edges, BESIDE_EDGES, 1.0)
    z = canvas.bake(views, weights).clamp(-1, 1)
    small = side < min(z.shape[-2:])
    return torch.nn.functional.interpolate(z, (side, side), mode="bicubic", antialias=small).clamp(-1, 1)


def _images(pixels: torch.Tensor) -> list[Image.Image]:
    """Pixels [n, 3, H, W] in [-1, 1] as PIL images."""
    from diffusers.image_processor import VaeImageProcessor

    images: list[Image.Image] = VaeImageProcessor().postprocess(pixels, output_type="pil")
    return images
