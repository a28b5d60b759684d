"""Why a pipeline cannot be probed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CannotProbe(ValueError):
    """A pipeline does something around its network that probing cannot learn; the sentence says what."""


@contextmanager
def refusing(pipe: Any) -> Iterator[None]:
    """What goes wrong in here while a pipeline is learnt is a refusal in one sentence, which begins with its class.

    Bad arguments of the caller (ValueError, TypeError) are left as they are.
    """
    name = type(pipe).__name__
    try:
        yield
    except CannotProbe as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise CannotProbe(f"{name}: {error}") from error.__cause__
    except (ValueError, TypeError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CannotProbe(f"{name}: its step could not be told ({type(error).__name__}: {reason[:120]})") from error
