"""``SyncPipeline``: the drop-in wrapper of a diffusers pipeline."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from . import controls, priors, zoo
from .canvases import CAMERAS, POLES, Camera, IllusionCanvas, PanoramaCanvas, View, WideCanvas, ring
from .canvases.surfaces import focal
from .composition import compose
from .diffusion import SolverChoice
from .errors import check_choice, check_int, shown
from .geometry import Camera as MeshCamera
from .geometry.sight import Rasterizer
from .guidance import Guidance
from .loading import Name, load_pipeline
from .metadata import recorded
from .priors import Attention, Compile, PipelinePrior, Runtime
from .priors.compiling import MODES
from .sampler import SyncOutput
from .task import Options, SyncPipelineOutput, check_options, check_prompts, example, method_of, run
from .texture import TEXTURE_SIZE, Agreement, SyncTextureOutput, TextureOptions, texture

if TYPE_CHECKING:
    from typing_extensions import Unpack

# SyncVC's settings where all cells of all views are shared: a trial on ambigrams, docs/performance.md.
_ILLUSIONS = {"inv_lambda": 0.0, "kl_weight": 100.0}


class SyncPipeline:
    """Synchronised sampling around a diffusers pipeline that you already have.

    Args:
        pipe: any diffusers pipeline that samples pictures, on its device, in its dtype, with its scheduler, whose own
            solver takes the steps; see docs/any-pipeline.md for how it is asked. :meth:`texture` needs one that is
            shown depth. The pipeline itself is not changed, and its safety checker is not run. Its own switches are
            honoured: gradient checkpointing (``pipe.unet.enable_gradient_checkpointing()``), tiled decoding
            (``pipe.vae.enable_tiling()``, without seams here) and offloading (``pipe.enable_model_cpu_offload()``).
        guidance_scale: default of the tasks' argument of this name; the pipeline's own if None.
        solver: ``"auto"`` runs the pipeline's own scheduler, and refuses one whose steps have another form (PNDM, Heun,
            DEIS, ...); ``"ddim"`` runs any of Stable Diffusion's schedulers by DDIM, with their own times and betas.
            What ran is in the output's ``parameters``.
        compile: run the network through ``torch.compile`` while a task samples. ``"off"`` is right for a picture or
            two; ``"regional"`` compiles its blocks, once for each shape, which pays from a few pictures on; ``"max"``
            the whole network, which takes minutes, for long series at one size.
        attention: what the network computes its attention with while a task samples: ``"sdpa"`` (torch's own),
            ``"xformers"`` (a package of its own, on a GPU), or what the pipeline has been set to, if None.
        channels_last: keep convolution weights in this layout while a task samples, which is faster on CPUs.

    Raises:
        ValueError: the pipeline is of a kind that is not supported (says what it lacks).
    """

    def __init__(
        self,
        pipe: Any,
        *,
        guidance_scale: float | Guidance | None = None,
        solver: SolverChoice = "auto",
        compile: Compile = "off",
        attention: Attention | None = None,
        channels_last: bool = False,
    ) -> None:
        self.pipe = pipe
        self.name = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
        check_choice("compile", compile, MODES)
        check_choice("solver", solver, ("auto", "ddim"))
        self._solver: SolverChoice = solver
        self._runtime = Runtime.of(pipe, compile=compile, attention=attention, channels_last=channels_last)
        self.guidance_scale = guidance_scale
        # Refuse early what no task could use, and what is no guidance.
        priors.check(pipe, solver)
        if guidance_scale is not None:
            Guidance.of(guidance_scale)

    @classmethod
    def from_zoo(
        cls,
        name: str = "scenes",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        solver: SolverChoice | None = None,
        compile: Compile = "off",
        attention: Attention | None = None,
    ) -> SyncPipeline:
        """An embedded prior: no network needed.

        Args:
            name: one of ``fastsync.zoo.names()``.
            solver: as in the constructor; what the prior was evaluated with if None (DDIM for all).
            device, dtype, compile, attention: as in :meth:`from_pretrained`.
        """
        solver = zoo.solver(name) if solver is None else solver
        sync = cls.from_pretrained(
            zoo.path(name), device=device, dtype=dtype, solver=solver, compile=compile, attention=attention
        )
        sync.guidance_scale, sync.name = zoo.guidance_scale(name), f"zoo:{name}"
        return sync

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        controlnet: Name | Sequence[Name] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        solver: SolverChoice = "auto",
        compile: Compile = "off",
        attention: Attention | None = None,
    ) -> SyncPipeline:
        """Load a diffusers pipeline from a folder or from the hub.

        Args:
            name_or_path: a folder in diffusers' format, or a model's name on the hub.
            controlnet: likewise, a ControlNet for this model, or several, of any family that diffusers has a pipeline
                for. :meth:`texture` needs one of depth; the other tasks take a ``control_image``.
            device: CUDA where there is one, else the CPU, if None.
            dtype: float16 on CUDA, float32 on the CPU, if None.
            solver, compile, attention: as in the constructor.

        Raises:
            ValueError: the model is neither a folder nor to be had from the hub, its pipeline is not supported, or has
                no form with such a ControlNet.
        """
        pipe = load_pipeline(name_or_path, controlnet, device, dtype)
        # Forward and backward are 7 to 10 % faster in this layout on a CPU; on a GPU nobody has measured it.
        on_cpu = pipe.device.type == "cpu"
        return cls(pipe, solver=solver, compile=compile, attention=attention, channels_last=on_cpu)

    def _prior(self, options: Options | None = None, prompts: Any = None, **settings: Any) -> PipelinePrior:
        """The pipeline's prior for a task with these options; ``prompts`` as the task was given them."""
        if options is not None:
            settings |= {
                "window": options.get("window"),
                "pipe_kwargs": options.get("pipe_kwargs"),
                "num_inference_steps": options.get("num_inference_steps", 50),
                "example": example(prompts, self.guidance_scale, options),
            }
        return priors.wrap(self.pipe, runtime=self._runtime, solver=self._solver, **settings)

    @property
    def prior(self) -> PipelinePrior:
        """What the tasks sample from, at the pipeline's own size; its ``repr`` says what is known of the pipeline."""
        return self._prior()

    @property
    def window_pixels(self) -> tuple[int, int]:
        """(height, width) of one view in pixels where a task is given no ``window``: the pipeline's own size."""
        return self.prior.window_pixels

    def wide(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        overlap: int | None = None,
        loop: bool | Literal["x", "y", "xy"] = False,
        **options: Unpack[Options],
    ) -> SyncPipelineOutput:
        """A picture of any size from overlapping windows.

        Args:
            prompt: one for all windows, or one a window (row-major); None with embeddings in ``pipe_kwargs``.
            height, width: of the picture in pixels, at least the window's; by default one window high and four wide.
                Any size: the last window is flush with the border, and pixels that do not fill a latent cell are cut
                (where ``loop`` closes the picture the side must fill its cells, or the cut would be seen).
            overlap: pixels that neighbouring windows share, a quarter of the window if None.
            loop: close the picture: in x (True or ``"x"``), so that its right border continues on its left, in ``"y"``,
                or in both, ``"xy"``, which makes a seamless tile.
            **options: :class:`fastsync.Options`.
        """
        check_options("wide", options)
        prior = self._prior(options, prompt)
        scale, (h, w) = prior.scale, prior.window
        height = h * scale if height is None else check_int("height", height)
        width = 4 * w * scale if width is None else check_int("width", width)
        for name, side, cells in (("height", height, h), ("width", width, w)):
            if side < cells * scale:
                raise ValueError(
                    f"{name} must be at least the model's window of {cells * scale} pixels, got {side}: ask for a "
                    "larger picture and crop it, or for a smaller window=."
                )
        overlap = min(h, w) * scale // 4 if overlap is None else check_int("overlap", overlap, minimum=0)
        cells = -(-overlap // scale)
        if cells >= min(h, w):
            raise ValueError(
                f"overlap must be at most {(min(h, w) - 1) * scale} pixels (the model's window of {min(h, w) * scale} "
                f"less one latent cell), got {overlap}: choose less."
            )
        size = (-(-height // scale), -(-width // scale))
        canvas = WideCanvas(size, window=(h, w), stride=(h - cells, w - cells), loop=loop)
        for name, side, period in zip(("height", "width"), (height, width), canvas.period, strict=True):
            if period and side % scale:
                raise ValueError(
                    f"{name} must be a multiple of {scale} pixels (a latent cell) with loop={loop!r}, got {side}: use "
                    f"{side - side % scale} or {side - side % scale + scale}."
                )
        prompts, image = check_prompts(prompt, canvas.num_views, "window", options), options.get("control_image")
        return run(
            prior,
            canvas,
            method_of(options),
            prompts,
            lambda out: _decode(prior, out.canvas, canvas.period)[..., :height, :width],
            {
                "task": "wide",
                "model": self.name,
                "prompt": recorded(prompt),
                "height": height,
                "width": width,
                "overlap": overlap,
                "loop": loop,
            },
            self.guidance_scale,
            options,
            places=[(y * scale, x * scale) for y, x in canvas.origins],
            size=(height, width),
            control=None if image is None else controls.of_windows(image, canvas, scale, (height, width)),
            view="window",
        )

    def panorama(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        width: int | None = None,
        poles: bool = False,
        cameras: Sequence[Camera] | None = None,
        **options: Unpack[Options],
    ) -> SyncPipelineOutput:
        """A 360° picture, equirectangular, from perspective views around the viewer.

        The views are sampled on a sphere in the prior's own cells (StochSync: in pixels); their decoded pictures are
        then painted onto the sphere.

        Args:
            prompt: one for all cameras, or one a camera; None with embeddings in ``pipe_kwargs``.
            width: 360° in pixels, an even number; by default as fine as the views are in their middle.
            poles: look up and down as well: the whole sphere, with eight more views. Else the views look around the
                horizon, and the picture is the band that they show at every azimuth.
            cameras: (azimuth, elevation, horizontal field of view) in degrees, instead of these.
            **options: :class:`fastsync.Options`.
        """
        check_options("panorama", options)
        if cameras is not None and poles:
            raise ValueError("poles and cameras were both given: add fastsync.canvases.POLES to your cameras.")
        prior, method = self._prior(options, prompt), method_of(options)
        if cameras is None:
            # StochSync alternates between sets of views side by side. All others go round the horizon, each view with
            # room between its neighbours, in which the last one passes from the one before it to the first.
            cameras = (CAMERAS if method.prefers_pixels else ring(8, fov=65.0)) + (POLES if poles else [])
        given = list(cameras)
        in_pixels = method.prefers_pixels and prior.scale > 1
        window = prior.window_pixels if in_pixels else prior.window
        rows = PanoramaCanvas.rows_for(given, window)
        canvas = PanoramaCanvas((rows, 2 * rows), given, window, units="pixels" if in_pixels else "cells")
        if width is None:
            # A pixel of a view's middle is 1 / focal length.
            width = 2 * round(math.pi * max(focal(camera, prior.window_pixels) for camera in canvas.cameras))
        elif check_int("width", width, minimum=8) % 2:
            raise ValueError(f"width must be even, got {width}: use {width + 1}.")
        size = (int(width) // 2, int(width))

        def paint(out: SyncOutput) -> torch.Tensor:
            pictures = out.views if in_pixels else torch.cat([prior.decode(view) for view in out.views.split(4)])
            picture, seen = canvas.paint(pictures.float(), size)
            # The band around the horizon that has no gap; all of the sphere where that has none.
            whole = int(seen.all(1).int()[size[0] // 2 :].cumprod(0).sum())
            if whole < size[0] // 2:
                whole = int(0.97 * whole)  # less the last pixels of the views
            return picture[..., size[0] // 2 - whole : size[0] // 2 + whole, :] if whole else picture

        prompts, image = check_prompts(prompt, canvas.num_views, "camera", options), options.get("control_image")
        return run(
            prior,
            canvas,
            method,
            prompts,
            paint,
            {
                "task": "panorama",
                "model": self.name,
                "prompt": recorded(prompt),
                "width": size[1],
                "cameras": [list(camera) for camera in canvas.cameras],
            },
            self.guidance_scale,
            options,
            control=None if image is None else controls.of_cameras(image, canvas, prior.window_pixels),
            view="camera",
        )

    def illusion(
        self, views: Sequence[tuple[str | View, str | None]], **options: Unpack[Options]
    ) -> SyncPipelineOutput:
        """A picture that shows something else in each view: turned, flipped, taken apart.

        Args:
            views: ``[(view, prompt), ...]``, two or more; a view is a name of ``fastsync.IllusionCanvas`` or a
                :class:`fastsync.View`. The first is usually ``"identity"``. All prompts are None with embeddings in
                ``pipe_kwargs``.
            **options: :class:`fastsync.Options`. ``method="syncvc"`` is one for illusions here, ``SyncVC(inv_lambda=0,
                kl_weight=100)``: where views share all of their cells, the defaults of wide pictures leave nothing of
                the later views' prompts.

        Returns:
            :class:`SyncPipelineOutput`; ``images`` holds the picture and then what each view shows of it. Pixel-space
            priors (``IFPipeline``, the zoo's ``glyphs``) do this well; in latents most views are not exact.
        """
        check_options("illusion", options)
        if not isinstance(views, (list, tuple)) or len(views) < 2:
            raise ValueError(
                f"views must be two or more pairs (view, prompt), got {shown(views)}: pass e.g. [('identity', 'a 6'), "
                "('rotate_180', 'a 9')]."
            )
        for pair in views:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise TypeError(f"views must be pairs (view, prompt), got {shown(pair)}.")
        names, texts = [view for view, _ in views], [prompt for _, prompt in views]
        prior = self._prior(options, texts)
        prompts = check_prompts(None if texts == [None] * len(texts) else texts, len(texts), "view", options)
        canvas = IllusionCanvas(names, shape=prior.view_shape)
        pixels = IllusionCanvas(names, shape=(3, *prior.window_pixels), units="pixels")
        image = options.get("control_image")

        def paint(out: SyncOutput) -> torch.Tensor:
            picture = prior.decode(out.canvas)
            return torch.cat([picture, pixels.project(picture)])

        return run(
            prior,
            canvas,
            method_of(options, **_ILLUSIONS),
            prompts,
            paint,
            {
                "task": "illusion",
                "model": self.name,
                "views": [view.name for view in canvas.views],
                "prompt": texts,
            },
            self.guidance_scale,
            options,
            control=None if image is None else controls.of_views(image, pixels),
        )

    def compose(
        self,
        masks: Any = None,
        prompts: Sequence[str | None] | None = None,
        *,
        regions: Sequence[tuple[Any, str | None]] | None = None,
        background: str = "",
        prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        **options: Unpack[Options],
    ) -> SyncPipelineOutput:
        """A picture whose regions follow prompts of their own.

        Args:
            masks, prompts: K prompts and K masks, each a file, PIL image, or array or tensor [H, W] in [0, 1] (or bool,
                or bytes). White is the region. Soft and overlapping masks are legal; later ones lie over earlier ones.
                No prompts with embeddings in ``pipe_kwargs``.
            regions: the same as ``[(mask, prompt), ...]``.
            background: what is seen where no mask is.
            prompt: of the whole picture, for the methods that have a view of it (SyncSDE, SyncVC); the others' joined
                by commas if None.
            height, width: of the picture in pixels, which is one ``window``; the pipeline's own size if None.
            **options: :class:`fastsync.Options`.
        """
        check_options("compose", options)
        if regions is not None:
            if masks is not None or prompts is not None:
                raise ValueError("regions and masks or prompts were both given: pass one of them.")
            masks, prompts = [mask for mask, _ in regions], [text for _, text in regions]
        if height is not None or width is not None:
            if options.get("window") is not None:
                raise ValueError(
                    "window and height or width were both given, and the picture is one window: pass one of them."
                )
            sides = (0, 0) if height is not None and width is not None else self.window_pixels
            options["window"] = (
                sides[0] if height is None else check_int("height", height),
                sides[1] if width is None else check_int("width", width),
            )
        make_prior = functools.partial(self._prior, options, prompts)
        return compose(make_prior, self.name, masks, prompts, background, prompt, self.guidance_scale, options)

    def texture(
        self,
        mesh: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        cameras: Sequence[MeshCamera | tuple[float, ...]] | None = None,
        texture_size: int = TEXTURE_SIZE,
        view_prompts: bool = True,
        reunwrap: bool = False,
        rasterizer: Rasterizer = "auto",
        agreement: Agreement = "auto",
        shared_attention: bool = False,
        conditioning_scale: float = 1.0,
        **options: Unpack[Options],
    ) -> SyncTextureOutput:
        """A texture for a mesh, from views around it that a depth-conditioned model denoises together.

        Needs the packages of ``fastsync[mesh]``, and a model that is shown depth: ``from_zoo("scenes-depth")``, a
        pipeline of any family with a ControlNet of depth (:meth:`from_pretrained` takes its name), or a
        ``StableDiffusionDepth2ImgPipeline``. Behind the mesh each view has a flat colour of its own, drawn from the
        seed, which says nothing of the mesh's.

        Args:
            mesh: an OBJ, GLB, glTF, PLY, STL or OFF file, a trimesh object or a :class:`fastsync.geometry.Mesh`. Its
                own texture coordinates are used where they give every point a texel of its own; others are made.
            prompt: what the mesh is made of or shows; one for all cameras, or one a camera; None with embeddings in
                ``pipe_kwargs``.
            cameras: :class:`fastsync.geometry.Camera` objects, or tuples (azimuth, elevation[, distance[, fov]]) in
                degrees around the mesh, which is thought to fill the unit sphere, y up, its front towards +z. None:
                eight around it and two from above.
            texture_size: side of the square texture. It is as sharp as the views are: their pixels, enlarged.
            view_prompts: add ", front view" and so on (side, back, top, bottom) to a prompt that is for all cameras.
            reunwrap: make new texture coordinates even where the mesh's own serve.
            rasterizer: ``"auto"``, ``"embree"`` or ``"nvdiffrast"`` (:func:`fastsync.geometry.see`).
            agreement: what views are compared in by ``method="syncvc"``, and merged in by ``"synctweedies"``:
                ``"latents"``, as published, or ``"pixels"``, decoded, which takes longer. Latents stand for patches as
                they lie in their view and do not turn with the mesh. Stable Diffusion's four channels are nearly a
                small picture; of more channels, views that agree in latents show debris. ``"auto"``: latents of up to
                four channels, else pixels.
            shared_attention: let each view's self-attention see the two views nearest to it, which pulls their looks
                together at the price of their detail; for methods that have all views in one batch, such as
                ``"synctweedies"``, with ``max_batch=None``.
            conditioning_scale: how much a ControlNet's residuals count.
            **options: :class:`fastsync.Options`, without ``output_type="latent"`` and ``control_image``, for which the
                mesh's depth stands. ``method="syncvc"`` has settings of its own here, 3 iterations, and where pictures
                are compared ``SyncVC(iterations=3, lr=0.05, inv_lambda=0, reward_weight=0,
                rewards=[SurfaceOverlap(sight)])``; method objects are taken as they are.

        Returns:
            :class:`SyncTextureOutput`: the texture in ``images``; ``textured.save("out.glb")`` writes the mesh with it.
        """
        check_options("texture", options)
        given = TextureOptions(
            cameras, texture_size, view_prompts, reunwrap, rasterizer, agreement, shared_attention, conditioning_scale
        )
        make_prior = functools.partial(self._prior, options, prompt)
        return texture(make_prior, self.name, mesh, prompt, given, self.guidance_scale, options)


def _decode(prior: PipelinePrior, latents: torch.Tensor, period: tuple[int, int]) -> torch.Tensor:
    """Canvas latents [1, C, H, W] to pixels; the picture closes where the canvas has a period."""
    return prior.decode(latents, closed=(bool(period[0]), bool(period[1])))
