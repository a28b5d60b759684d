"""Why a pipeline cannot be probed."""


class CannotProbe(ValueError):
    """A pipeline does something around its network that probing cannot learn; the sentence says what."""
