"""Between a prior's sample units and pixels."""

from .autoencoder import VaeCodec, upcast_dtype
from .base import PIXELS, Codec

__all__ = ["PIXELS", "Codec", "VaeCodec", "upcast_dtype"]
