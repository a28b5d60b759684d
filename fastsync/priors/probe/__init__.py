"""What a pipeline does around its network, found out by calling it with stand-ins."""

from .recording import Recorder, Recording
from .refusal import CannotProbe

__all__ = ["CannotProbe", "Recorder", "Recording"]
