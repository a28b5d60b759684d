"""Between a prior's sample units and pixels."""

from .autoencoder import VaeCodec, upcast_dtype
from .base import OPEN, PIXELS, Codec

__all__ = ["OPEN", "PIXELS", "Codec", "VaeCodec", "upcast_dtype"]
