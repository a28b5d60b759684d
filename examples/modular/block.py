"""A block for Modular Diffusers: pictures of any size, from windows that are sampled together and kept in agreement."""

import inspect
from typing import Any, get_type_hints

import diffusers
import torch
from diffusers import ClassifierFreeGuidance, ModularPipelineBlocks
from diffusers.modular_pipelines import ComponentSpec, ConfigSpec, InputParam, OutputParam, PipelineState
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

import fastsync as fs

# Inputs that SyncPipeline.wide takes under the same name; it has a default for each.
OPTIONS = ("height", "width", "overlap", "loop", "window", "method", "num_inference_steps", "generator", "output_type")


class SyncWideBlock(ModularPipelineBlocks):
    """In place of the blocks of a text-to-image pipeline that denoise and decode, or of all of them.

    Alone it encodes prompts itself. Behind a block that encodes them it takes the embeddings, one row for all windows
    or one a window, and a guider is followed where the pipeline has one.

    Args:
        pipeline_class: name of the diffusers pipeline whose networks are asked as its own call asks them, and whose
            parts are this block's components.
    """

    def __init__(self, pipeline_class: str = "StableDiffusionXLPipeline") -> None:
        super().__init__()
        kind = getattr(diffusers, pipeline_class, None)
        if not inspect.isclass(kind) or not issubclass(kind, diffusers.DiffusionPipeline):
            raise ValueError(
                f"pipeline_class must be the name of a pipeline of diffusers, got {pipeline_class!r}: pass e.g. "
                "'FluxPipeline'."
            )
        self.pipeline_class: type[diffusers.DiffusionPipeline] = kind
        # By this name Modular Diffusers finds the class of modular pipelines for the same family.
        self.model_name = next((n for n, c in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items() if c is kind), None)

    @property
    def description(self) -> str:
        return "Samples a picture of any size from windows that are kept in agreement, and decodes it without seams."

    @property
    def _parts(self) -> dict[str, inspect.Parameter]:
        """What the pipeline is made of; configs and components that may be missing have a default."""
        _, *parts = inspect.signature(self.pipeline_class.__init__).parameters.items()
        return dict(parts)

    @property
    def expected_components(self) -> list[ComponentSpec]:
        required = [name for name, part in self._parts.items() if part.default is inspect.Parameter.empty]
        types = get_type_hints(self.pipeline_class.__init__).items()
        # Unions, and schedulers that are listed in an enum, are no class to load: the model's own index has that.
        classes = {name: hint for name, hint in types if hasattr(hint, "from_pretrained")}
        return [ComponentSpec(name, classes.get(name)) for name in required]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        known, optional = self._parts.items(), self.pipeline_class._optional_components
        return [
            ConfigSpec(n, p.default) for n, p in known if p.default is not inspect.Parameter.empty and n not in optional
        ]

    @property
    def inputs(self) -> list[InputParam]:
        sides = {"height": "one window", "width": "four windows"}
        return [
            InputParam.template(
                "prompt", required=False, note="one for all windows, or one a window in row-major order"
            ),
            InputParam.template("negative_prompt"),
            *(InputParam(n, type_hint=int, description=f"In pixels; {size} if None.") for n, size in sides.items()),
            InputParam("overlap", type_hint=int, description="Pixels that windows share; a quarter window if None."),
            InputParam("loop", default=False, description="Close the picture: True or 'x', 'y', 'xy'."),
            InputParam("window", type_hint=tuple, description="(height, width) in pixels; the model's own if None."),
            InputParam("method", default="syncvc", description="Name of a method of fastsync, or a method object."),
            InputParam.template("num_inference_steps"),
            InputParam(
                "guidance_scale",
                description="A number or fastsync.Guidance; if None the guider's, without one the pipeline's default.",
            ),
            InputParam.template("generator"),
            InputParam.template("output_type"),
            InputParam("pipe_kwargs", type_hint=dict, description="Whatever else the call of the pipeline takes."),
            InputParam("progress", type_hint=bool, default=True, description="Show a progress bar."),
            InputParam.template("denoiser_input_fields"),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam.template("images"),
            OutputParam.template("latents", note="of the whole picture"),
            OutputParam("parameters", type_hint=dict, description="All that makes the picture again, ready for JSON."),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block_state = self.get_block_state(state)
        given = {name: block_state[name] for name in OPTIONS if block_state[name] is not None}
        given["pipe_kwargs"] = {**(block_state.pipe_kwargs or {}), **by_window(block_state.denoiser_input_fields)}
        encoded = any("embeds" in name for name in given["pipe_kwargs"])
        if not encoded:
            given["negative_prompt"] = block_state.negative_prompt
        guidance = block_state.guidance_scale
        if guidance is None:
            guidance = guidance_of(getattr(components, "guider", None))
        sync = fs.SyncPipeline(self.plain_pipeline(components), guidance_scale=guidance)
        out = sync.wide(None if encoded else block_state.prompt, progress=block_state.progress, **given)
        block_state.images, block_state.latents, block_state.parameters = out.images, out.latents, out.parameters
        self.set_block_state(state, block_state)
        return components, state

    def plain_pipeline(self, components: Any) -> diffusers.DiffusionPipeline:
        """The pipeline that is not modular, around the same components."""
        # Without text encoders many a pipeline still works: with embeddings, or with one of several encoders.
        missing = [
            spec.name
            for spec in self.expected_components
            if components.components[spec.name] is None
            and spec.name not in self.pipeline_class._optional_components
            and not getattr(spec.type_hint, "__module__", "").startswith("transformers")
        ]
        if missing:
            raise ValueError(
                f"{self.pipeline_class.__name__} is without its {', '.join(missing)}: call load_components() or "
                "update_components() first."
            )
        known = {**components.config, **components.components}
        return self.pipeline_class(**{name: known[name] for name in self._parts if name in known})


def by_window(fields: dict[str, Any]) -> dict[str, Any]:
    """Encoded prompts as the pipeline's call takes them for one picture: of several rows, each is for its window."""
    return {
        name: fs.ByView([rows[k : k + 1] for k in range(len(rows))]) if len(rows) > 1 else rows
        for name, rows in fields.items()
    }


def guidance_of(guider: Any) -> fs.Guidance | None:
    """What a guider does, in fastsync's terms; None without one."""
    if guider is None:
        return None
    if type(guider) is not ClassifierFreeGuidance:
        raise ValueError(
            f"the guider is a {type(guider).__name__}, and fastsync guides as ClassifierFreeGuidance does: pass "
            "guidance_scale, or update_components(guider=ClassifierFreeGuidance())."
        )
    if not guider.get_state()["enabled"]:
        return fs.Guidance(1.0)
    settings = guider.config
    scale = settings.guidance_scale + 1.0 if settings.use_original_formulation else settings.guidance_scale
    return fs.Guidance(scale, settings.guidance_rescale, (settings.start, settings.stop))
