"""Views show what a text says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from ..canvases.base import LinearCanvas
from ..errors import check_number, shown
from .base import Reward

# What CLIP's own pictures were normalised with, where no processor says otherwise.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_DEFAULT = "openai/clip-vit-base-patch32"


class Clip(Reward):
    """``weight`` times the cosine (-1 to 1) of a picture's and a prompt's CLIP embeddings (Radford 2021).

    A picture is resized to the model's square (bilinear, antialiased, whole: nothing is cropped) and normalised, all
    differentiable.

    Args:
        model: a transformers ``CLIPModel``, a folder that holds one, or a name on the hub
            (``openai/clip-vit-base-patch32`` if None). A model object is used where it is and as it is.
        prompt: one for all views, or one a view.
        processor: a ``CLIPProcessor`` or a tokenizer. None: the tokenizer and the normalisation in the model's folder;
            a model object needs one.
        weight: at least 0.

    Raises:
        ValueError: the model or its tokenizer cannot be had; as many prompts as neither 1 nor views.
    """

    pixels = True
    reads_earlier = False

    def __init__(self, model: Any = None, prompt: str | Sequence[str] = "", processor: Any = None, weight: float = 1.0):
        self.weight = check_number("weight", weight, minimum=0.0)
        self.prompt = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else []
        if not self.prompt or not all(isinstance(p, str) and p for p in self.prompt):
            raise ValueError(f"prompt must be a text or a list of texts, one a view, got {shown(prompt)}.")
        model = _DEFAULT if model is None else model
        self._mean, self._std = _MEAN, _STD
        if isinstance(model, (str, os.PathLike)):
            model, processor = self._load(os.fspath(model), processor)
        if not hasattr(model, "visual_projection") or not hasattr(model, "text_projection"):
            raise TypeError(f"model must be a transformers CLIPModel, a folder or a name, got {shown(model)}.")
        if processor is None:
            raise ValueError(
                "a model object does not bring its tokenizer: pass processor=, a CLIPProcessor or tokenizer."
            )
        images = getattr(processor, "image_processor", None)
        self._mean = tuple(getattr(images, "image_mean", None) or self._mean)
        self._std = tuple(getattr(images, "image_std", None) or self._std)
        self._model, self._tokenizer = model, getattr(processor, "tokenizer", processor)
        self._texts: torch.Tensor | None = None

    def _load(self, name: str, processor: Any) -> tuple[Any, Any]:
        """The model of a folder or of the hub, and its tokenizer unless there is one."""
        import transformers
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            model = transformers.CLIPModel.from_pretrained(name)
            processor = transformers.AutoTokenizer.from_pretrained(name) if processor is None else processor
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the CLIP model {shown(name)} could not be loaded ({shown(reason)}): pass a folder that "
                "CLIPModel.save_pretrained wrote (with its tokenizer), or a CLIPModel and processor=."
            ) from error
        try:
            settings = ImageProcessingMixin.get_image_processor_dict(name)[0]
            self._mean, self._std = settings["image_mean"], settings["image_std"]
        except (OSError, KeyError):
            pass  # a folder without preprocessor_config.json: CLIP's own numbers
        return model, processor

    def begin(self, canvas: LinearCanvas, order: Sequence[int]) -> Clip:
        """Itself; ValueError where the prompts are not as many as the views."""
        if len(self.prompt) not in (1, canvas.num_views):
            raise ValueError(
                f"prompt must be one or {canvas.num_views} texts (one a view), got {len(self.prompt)}: the canvas has "
                f"{canvas.num_views} views."
            )
        return self

    def __call__(self, x0: torch.Tensor, earlier: Sequence[torch.Tensor], i: int) -> Any:
        """The score of picture x0 [3, H, W]."""
        side, weights = self._model.config.vision_config.image_size, self._model.visual_projection.weight
        picture = functional.interpolate(x0[None], (side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (picture.new_tensor(c)[:, None, None] for c in (self._mean, self._std))
        seen = self._model.vision_model(pixel_values=((picture - mean) / std).to(weights)).pooler_output
        embedding = functional.normalize(self._model.visual_projection(seen)[0].to(x0.dtype), dim=0)
        text = self._embedded().to(x0)[i if len(self.prompt) > 1 else 0]
        return self.weight * (embedding @ text)

    @torch.no_grad()
    def _embedded(self) -> torch.Tensor:
        """Unit embeddings [prompts, D] of the texts, made once."""
        if self._texts is None:
            tokens = self._tokenizer(self.prompt, padding=True, truncation=True, return_tensors="pt")
            tokens = {k: tokens[k].to(self._model.device) for k in ("input_ids", "attention_mask")}
            said = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
            self._texts = functional.normalize(said, dim=1)
        return self._texts
