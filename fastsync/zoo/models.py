"""The parts of the embedded priors, untrained: tokenizer, text encoder, autoencoder, denoiser, scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Size:
    """The widths of a latent text-to-image pipeline; the defaults are those of the shipped prior `scenes`."""

    pixels: int = 128
    latent_channels: int = 12
    vae_channels: tuple[int, ...] = (32, 64, 96, 96)
    unet_channels: tuple[int, ...] = (128, 128, 128)
    text_width: int = 128
    text_layers: int = 3
    tokens: int = 24
    vae_groups: int = 2  # many would hide the overall colour: each group loses its mean
    unet_groups: int = 8

    @property
    def factor(self) -> int:
        """Pixels a latent cell, along one side."""
        return 2 ** (len(self.vae_channels) - 1)

    @property
    def cells(self) -> int:
        """Latent cells along one side of a window."""
        return self.pixels // self.factor


# Of `scenes-depth`, whose UNet and ControlNet together take the room that the UNet of `scenes` has for itself.
DEPTH_SIZE = Size(unet_channels=(112, 112, 112), text_width=64, text_layers=2)
TINY = Size(
    pixels=32,
    latent_channels=4,
    vae_channels=(8, 8),
    unet_channels=(8, 16),
    text_width=16,
    text_layers=1,
    vae_groups=2,
    unet_groups=4,
)  # for tests: the same parts, too small to learn anything


def make_tokenizer(words: Iterable[str], tokens: int = 24) -> CLIPTokenizer:
    """A CLIP tokenizer (lower-case byte-level BPE) in which each of `words` is one token and any other text some.

    `tokens` is the length of a prompt with its start and end mark.
    """
    words = sorted(set(words))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,  # no limit: merging ends when every word is whole
        min_frequency=1,
        show_progress=False,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    # Every byte, inside a word and at its end, has a token: no text is unknown.
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    merges: list[Any] = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def make_text_encoder(tokenizer: CLIPTokenizer, size: Size) -> CLIPTextModel:
    """Token numbers int64 [B, tokens] to states [B, tokens, text_width]."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=2 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=4,
        max_position_embeddings=size.tokens,
        projection_dim=size.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_vae(size: Size) -> AutoencoderKL:
    """Pixels [B, 3, H, W] in [-1, 1] to latents [B, latent_channels, H / factor, W / factor] and back."""
    levels = len(size.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.vae_channels,
        layers_per_block=1,
        latent_channels=size.latent_channels,
        norm_num_groups=size.vae_groups,
        sample_size=size.pixels,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # the encoder's last layer is rescaled after training, so that latents have unit variance
    )


def make_unet(size: Size) -> UNet2DConditionModel:
    """Noisy latents, times and text states to v; attends to the text at all levels but the finest."""
    coarse = len(size.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=size.cells,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        block_out_channels=size.unet_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * coarse),
        up_block_types=(*("CrossAttnUpBlock2D",) * coarse, "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=size.unet_groups,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=size.text_width,
    )


def make_controlnet(unet: UNet2DConditionModel, size: Size) -> ControlNetModel:
    """Control by pictures [B, 3, pixels, pixels] in [0, 1], which begins as a copy of the encoder, without effect."""
    widths = (16, 24, 32, 48)[: len(size.vae_channels)]  # each but the first halves the picture
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)


def make_scheduler() -> DDIMScheduler:
    """v-prediction, and times that start at the last one: nights come out as dark as they were in training.

    Latents of few cells and many channels show their overall colour through a lot of noise. With Stable Diffusion's
    own betas (a = 0.068 at the last time) the mean of the first noise decided the time of day, whatever the prompt
    said; with these a = 0.011, and the prompt decides.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.018,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect on trailing times; diffusers warns of 0
        timestep_spacing="trailing",
    )


def make_pipeline(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    controlnet: ControlNetModel | None = None,
) -> StableDiffusionPipeline | StableDiffusionControlNetPipeline:
    """The parts as one `StableDiffusionPipeline`, or as its kind with a ControlNet, without a safety checker."""
    kind = StableDiffusionPipeline if controlnet is None else StableDiffusionControlNetPipeline
    return kind(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **({} if controlnet is None else {"controlnet": controlnet}),
    )
