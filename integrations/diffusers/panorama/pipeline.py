"""The call of diffusers' deprecated ``StableDiffusionPanoramaPipeline``, sampled by fastsync's MultiDiffusion.

::

    pipe = DiffusionPipeline.from_pretrained(
        "path/or/name", custom_pipeline="integrations/diffusers/panorama", trust_remote_code=True
    )
    pipe("a photo of the dolomites", circular_padding=True).images[0]

What differs from the deprecated pipeline, and why, is in the README beside this file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput, StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import deprecate
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

import fastsync as fs

ON_CPU = 64 * 64  # cells a call that are chosen there: a CPU gains nothing by more, and pays for the memory
PADDING = 8  # cells that a closed picture is continued by on either side while it is decoded


class WindowPrior(fs.FunctionPrior):
    """A pipeline's UNet on windows of its latents.

    Args:
        pipe: its UNet and its scheduler.
        device: on which the pipeline runs.
        window: (h, w) in latent cells.
        timesteps: times of the caller's own, or None.
        told: further arguments of the UNet, the same at every call.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        device: torch.device,
        window: tuple[int, int],
        timesteps: Sequence[int] | None = None,
        **told: Any,
    ) -> None:
        self.unet, self.timesteps, self.told = pipe.unet, timesteps, told
        view_shape = (pipe.unet.config.in_channels, *window)
        super().__init__(self.ask, pipe.scheduler, view_shape, device=device, dtype=pipe.unet.dtype)

    def ask(self, x: torch.Tensor, t: torch.Tensor, cond: fs.Conditions) -> torch.Tensor:
        """The UNet at x [B, C, h, w], times t [B], and what ``conditions`` made of prompts and pictures."""
        images = [rows.to(self.dtype) for name, rows in cond.rows.items() if name != "text"]
        added = {"image_embeds": images} if images else None
        text = cond["text"].to(self.dtype)
        raw: torch.Tensor = self.unet(
            x.to(self.dtype), t, text, added_cond_kwargs=added, return_dict=False, **self.told
        )[0]
        return raw

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> Any:
        """The run's step table, at the caller's own times if there are some."""
        if self.timesteps is None:
            return super().steps(num_inference_steps, eta)
        return self.schedule.steps(len(self.timesteps), eta, timesteps=self.timesteps)

    @property
    def memory_key(self) -> object:
        """Batch sizes that fitted are remembered with the UNet, from call to call."""
        return self.unet


class Pictures:
    """One run for each picture of a call, all taken step by step together.

    Args:
        pipe: whose scheduler decides in which scale latents are handed out.
        dtype: of latents that are handed out.
        conditions: arguments ``cond`` and ``uncond`` of each run.
        latents: [B, C, H, W], standard normal noise.
        generators: of the noise that steps add, one for each picture or one for all.
        settings: further arguments of all runs.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        dtype: torch.dtype,
        conditions: Sequence[Mapping[str, Any]],
        latents: torch.Tensor,
        generators: Sequence[torch.Generator] | torch.Generator | None,
        **settings: Any,
    ) -> None:
        if not isinstance(generators, list):
            generators = [generators] * len(conditions)
        if len(generators) != len(conditions):
            raise ValueError(
                f"generator must be one torch.Generator or one for each of the {len(conditions)} pictures, got "
                f"{len(generators)} of them."
            )
        check_shape(latents, (len(conditions), settings["prior"].view_shape[0], *settings["canvas"].size))
        rows = zip(conditions, latents.split(1), generators, strict=True)
        self.sessions = [
            fs.Session(**told, latents=noise, generator=generator, **settings) for told, noise, generator in rows
        ]
        self.run, self.dtype = self.sessions[0].run, dtype
        # Schedulers of sigmas have their states at another scale than the UNet sees them.
        self.in_sigmas = float(pipe.scheduler.init_noise_sigma) != 1.0
        self.step = -1

    def __len__(self) -> int:
        return len(self.sessions[0])

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Take step after step; yields its number and its time."""
        with ExitStack() as stack:
            for session in self.sessions:
                stack.enter_context(session)
            for states in zip(*self.sessions, strict=True):
                self.step = states[0].step
                yield self.step, states[0].t

    @property
    def scale(self) -> float:
        """What fastsync's states are multiplied by to be the scheduler's."""
        return 1.0 / float(self.run.times.table.a_next[self.step]) if self.in_sigmas else 1.0

    @property
    def latents(self) -> torch.Tensor:
        """[B, C, H, W] after the last step; assign others to go on with them."""
        views = [session.run.states.after(self.step) for session in self.sessions]
        return torch.cat([self.run.canvas.merge(v) for v in views]).mul(self.scale).to(self.dtype)

    @latents.setter
    def latents(self, latents: torch.Tensor) -> None:
        check_shape(latents, self.latents.shape)
        for session, canvas in zip(self.sessions, latents.to(self.run.dtype).split(1), strict=True):
            # As diffusers does it: Session.replace would make the next step one of first order.
            session.run.states.replace_after(self.step, self.run.canvas.project(canvas / self.scale))

    def tell(self, conditions: Sequence[Mapping[str, fs.Conditions | None]]) -> None:
        """Go on with other conditions."""
        for session, told in zip(self.sessions, conditions, strict=True):
            session.run.network.cond, session.run.network.uncond = told["cond"], told["uncond"]


class FastsyncPanoramaPipeline(StableDiffusionPipeline):
    """Text to wide and closed pictures by MultiDiffusion.

    Attributes:
        window_size: side of a window in latent cells.
        window_stride: distance between windows in latent cells.
    """

    window_size = 64
    window_stride = 8

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: CLIPImageProcessor,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        requires_safety_checker: bool = True,
    ) -> None:
        # StableDiffusionPipeline would change the config of schedulers that it takes for outdated.
        rest = (safety_checker, feature_extractor, image_encoder, requires_safety_checker)
        super().__init__(vae, text_encoder, tokenizer, unet, None, *rest)
        self.register_modules(scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] = None,
        height: int | None = 512,
        width: int | None = 2048,
        num_inference_steps: int = 50,
        timesteps: list[int] = None,
        guidance_scale: float = 7.5,
        view_batch_size: int = 1,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        circular_padding: bool = False,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[int, int], None] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (the deprecated pipeline's default)
        **kwargs: Any,
    ) -> StableDiffusionPipelineOutput | tuple[Any, list[bool] | None]:
        """All arguments are those of the deprecated pipeline.

        Args:
            view_batch_size: most windows in one call of the UNet. At 1, the default, fastsync chooses: all of them, or
                fewer where memory is too small; on a CPU as many as 64 x 64 cells hold.

        Raises:
            ValueError, TypeError: bad input, or a scheduler that fastsync cannot step by (the sentence says which to
                use), before any call of the UNet.
        """
        callback, callback_steps = kwargs.pop("callback", None), kwargs.pop("callback_steps", None)
        if kwargs:
            raise TypeError(f"{type(self).__name__} takes no argument {next(iter(kwargs))!r}: leave it out.")
        for name, value in (("callback", callback), ("callback_steps", callback_steps)):
            if value is not None:
                deprecate(name, "1.0.0", f"Passing `{name}` is deprecated, consider using `callback_on_step_end`")
        height = height or self.unet.config.sample_size * self.vae_scale_factor
        width = width or self.unet.config.sample_size * self.vae_scale_factor
        self.check_inputs(
            prompt,
            height,
            width,
            callback_steps,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale, self._guidance_rescale = guidance_scale, guidance_rescale
        self._clip_skip, self._cross_attention_kwargs = clip_skip, cross_attention_kwargs
        self._interrupt = False
        device, guided = self._execution_device, guidance_scale > 1
        if prompt is None:
            count = len(prompt_embeds) * num_images_per_prompt
        else:
            count = (1 if isinstance(prompt, str) else len(prompt)) * num_images_per_prompt

        # What the UNet is told, the rows of guidance's unconditional half first.
        images = []
        if ip_adapter_image is not None or ip_adapter_image_embeds is not None:
            images = self.prepare_ip_adapter_image_embeds(
                ip_adapter_image, ip_adapter_image_embeds, device, count, guided
            )
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            guided,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=(cross_attention_kwargs or {}).get("scale"),
            clip_skip=clip_skip,
        )
        if guided:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
        told = {"cross_attention_kwargs": cross_attention_kwargs}
        if self.unet.config.time_cond_proj_dim is not None:
            embedding = self.get_guidance_scale_embedding(
                torch.tensor([guidance_scale - 1.0]), self.unet.config.time_cond_proj_dim
            )
            told["timestep_cond"] = embedding.to(device, self.unet.dtype)

        size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        window = (min(self.window_size, size[0]), min(self.window_size, size[1]))
        chosen = max(1, ON_CPU // (window[0] * window[1])) if device.type == "cpu" else "auto"
        batch = view_batch_size if view_batch_size != 1 else chosen
        if latents is None:
            shape = (count, self.unet.config.in_channels, *size)
            latents = randn_tensor(shape, generator, device, prompt_embeds.dtype)
        pictures = Pictures(
            self,
            prompt_embeds.dtype,
            conditions(prompt_embeds, images, count),
            latents,
            generator,
            prior=WindowPrior(self, device, window, timesteps, **told),
            canvas=fs.WideCanvas(size, window, self.window_stride, loop="x" if circular_padding else False),
            method=fs.MultiDiffusion(),
            previews=False,
            guidance_scale=fs.Guidance(guidance_scale, guidance_rescale),
            num_inference_steps=num_inference_steps,
            eta=self.prepare_extra_step_kwargs(None, eta).get("eta", 0.0),
            max_batch=batch,
        )
        self._num_timesteps = len(pictures)
        with self.progress_bar(total=self._num_timesteps) as bar:
            for step, t in pictures:
                if callback_on_step_end is not None:
                    seen = pictures.latents
                    tensors = {
                        "latents": seen.clone(),
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                    }
                    shown = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    tensors |= callback_on_step_end(self, step, t, shown) or {}
                    if not torch.equal(tensors["latents"], seen):
                        pictures.latents = tensors["latents"]
                    prompt_embeds, negative_prompt_embeds = tensors["prompt_embeds"], tensors["negative_prompt_embeds"]
                    pictures.tell(conditions(prompt_embeds, images, count))
                bar.update()
                if callback is not None and step % (callback_steps or 1) == 0:
                    callback(step, t, pictures.latents)
                if self.interrupt:
                    break
        latents = pictures.latents

        if output_type == "latent":
            image, has_nsfw_concept = latents, None
        else:
            image = self._decoded(latents, device, circular_padding)
            image, has_nsfw_concept = self.run_safety_checker(image, device, prompt_embeds.dtype)
        denormalize = [not nsfw for nsfw in has_nsfw_concept or [False] * count]
        image = self.image_processor.postprocess(image, output_type=output_type, do_denormalize=denormalize)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (image, has_nsfw_concept)
        return StableDiffusionPipelineOutput(images=image, nsfw_content_detected=has_nsfw_concept)

    def _decoded(self, latents: torch.Tensor, device: torch.device, closed: bool) -> torch.Tensor:
        """Latents [B, C, H, W] to pixels; closed ones are continued at both ends, where the decoder sees no border."""
        codec = fs.priors.VaeCodec(self.vae)
        if not closed:
            return codec.decode(latents, device)
        continued = torch.cat([latents[..., -PADDING:], latents, latents[..., :PADDING]], -1)
        border = PADDING * codec.scale
        return codec.decode(continued, device)[..., border:-border]


def conditions(text: torch.Tensor, images: Sequence[torch.Tensor], count: int) -> list[dict[str, fs.Conditions | None]]:
    """``cond`` and ``uncond`` of each picture, of text states and image embeddings [count or 2 count, ...].

    ``uncond`` is None without guidance.
    """
    if len(text) not in (count, 2 * count):
        raise ValueError(f"prompt_embeds must have {count} rows, or {2 * count} with guidance, got {len(text)}.")
    rows = {"text": text, **{f"image {i}": image for i, image in enumerate(images)}}
    told = [fs.Conditions({name: row[k : k + 1] for name, row in rows.items()}) for k in range(len(text))]
    unconditional = told[:count] if len(text) == 2 * count else [None] * count
    return [{"cond": c, "uncond": u} for c, u in zip(told[-count:], unconditional, strict=True)]


def check_shape(latents: torch.Tensor, shape: Sequence[int]) -> None:
    """ValueError where latents are not a row for each picture."""
    if tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents must be of shape {tuple(shape)}, a row a picture, got {tuple(latents.shape)}.")
