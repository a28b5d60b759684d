"""The parts of an embedded pixel-space prior, untrained, as DeepFloyd IF has them: T5 encoder, UNet, scheduler."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass

from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

TOKENS = 77  # the length that IFPipeline pads prompts to


@dataclass(frozen=True)
class PixelSize:
    """The widths of a pixel-space pipeline; the defaults are those of the shipped prior `glyphs`."""

    pixels: int = 64
    unet_channels: tuple[int, ...] = (32, 64, 128, 128)
    unet_groups: int = 8
    text_width: int = 64
    text_layers: int = 2


TINY = PixelSize(pixels=16, unet_channels=(8, 16), unet_groups=4, text_width=16, text_layers=1)  # for tests


def make_tokenizer(words: Iterable[str]) -> T5Tokenizer:
    """A T5 tokenizer in which each of `words` is one token; other text falls into single characters."""
    known = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    # Costs are such that a word of the vocabulary always beats its characters.
    known += [(f"▁{word}", -1.0) for word in sorted(set(words)) if len(word) > 1]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    known += [(f"▁{character}", -2.0) for character in characters]
    known += [(character, -8.0) for character in ["▁", *characters]]
    return T5Tokenizer(vocab=known, extra_ids=0, model_max_length=TOKENS)


def make_text_encoder(tokenizer: T5Tokenizer, size: PixelSize) -> T5EncoderModel:
    """Token numbers int64 [B, 77] and their mask to states [B, 77, text_width]."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=size.text_width,
        d_kv=size.text_width // 4,
        d_ff=2 * size.text_width,
        num_layers=size.text_layers,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5EncoderModel(config)


def make_unet(size: PixelSize) -> UNet2DConditionModel:
    """Noisy pixels, times and text states to v and, as IF has it, a variance that is not used; [B, 6, h, w]."""
    levels = len(size.unet_channels)
    fine = levels // 2  # the finer half of the levels does not attend to the text
    return UNet2DConditionModel(
        sample_size=size.pixels,
        in_channels=3,
        out_channels=6,
        block_out_channels=size.unet_channels,
        down_block_types=("DownBlock2D",) * fine + ("CrossAttnDownBlock2D",) * (levels - fine),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - fine) + ("UpBlock2D",) * fine,
        layers_per_block=1,
        norm_num_groups=size.unet_groups,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=size.text_width,
    )


def make_scheduler() -> DDPMScheduler:
    """v-prediction with times that start at the last one, where a = 0.006 hides even the colour of the paper."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def make_pipeline(tokenizer: T5Tokenizer, text_encoder: T5EncoderModel, unet: UNet2DConditionModel) -> IFPipeline:
    """The parts as one `IFPipeline`, without safety checker and watermark."""
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
