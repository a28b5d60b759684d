"""One call of a pipeline's own ``__call__``, recorded, with stand-ins for its networks and its scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import shown
from .apart import ask
from .fitness import modules_of
from .keeping import PlainState, quiet, random_kept, random_states
from .nested import cloned, first, kept, mapped
from .refusal import CannotProbe
from .shadow import Shadow, Stop, Text
from .standing_in import StandIn, StepOutput


@dataclass
class NetworkCall:
    """One call of a network: the component's name, what it was given, and what it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None


@dataclass
class Step:
    """One iteration of the pipeline's loop, as its scheduler saw it.

    Attributes:
        t: the time that ``scheduler.step`` was given.
        sample: the state that it was given.
        scaled: what ``scale_model_input`` had made of the state; the state itself where it was not called.
        calls: of networks since the step before.
        output: the model output that ``scheduler.step`` was given.
    """

    t: Any
    sample: torch.Tensor
    scaled: torch.Tensor
    calls: list[NetworkCall]
    output: torch.Tensor


@dataclass
class Recording:
    """What one call of a pipeline did.

    Attributes:
        rows: how many pictures were asked for.
        steps: the loop.
        times: arguments of the scheduler's ``set_timesteps``, those that were not None.
        start: clean latents that the pipeline noised to begin with; None where it began from noise.
        noised: what they became.
        unscaled: whether the scheduler's ``scale_model_input`` was not asked, although it changes states.
        decoded: what the autoencoder was given after the loop; None where there is none.
        decoder: the autoencoder's name among the components.
        decoder_dtype: what the pipeline cast the autoencoder to; None if it did not.
        decoding: further arguments that the autoencoder was given.
        pictures: what the call returned, where no autoencoder ended it.
        scheduler: the copy that took part, with its times set.
        changed: of each component, what the pipeline changed of it by the loop's first step, or set in it at any time;
            None if nothing.
    """

    rows: int
    steps: list[Step] = field(default_factory=list)
    times: dict[str, Any] | None = None
    start: torch.Tensor | None = None
    noised: torch.Tensor | None = None
    unscaled: bool = False
    decoded: torch.Tensor | None = None
    decoder: str = ""
    decoder_dtype: torch.dtype | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    pictures: Any = None
    scheduler: Any = None
    changed: dict[str, str | None] = field(default_factory=dict)

    def forget_preparation(self, steps_alike: bool) -> None:
        """Leave out of the first step what was asked before it, and in no later one (text encoders, say).

        ``steps_alike``: whether the networks are asked equally often in each step.
        """
        names = {call.name for step in self.steps[1:] for call in step.calls}
        calls = [call for call in self.steps[0].calls if call.name in names]
        self.steps[0].calls = calls[-len(self.steps[1].calls) :] if steps_alike else calls


_ALIKE = 5  # rows from which on the last two are made alike
_FACTOR = 1.15  # between halves, for guidance scales from 1 to 14
_NOT_DECODING = ("return_dict", "generator", "kwargs")  # arguments of decoders that no picture depends on


class Recorder:
    """Records calls of one pipeline, which stays as it was.

    The pipeline that is called is a shallow copy. Its scheduler is a copy, whose ``step`` records; its networks are
    stand-ins, which are real in the first step of the first recording and answer random numbers in all others.

    Args:
        pipe: a diffusers pipeline.

    Attributes:
        steps_alike: whether networks that are asked or switched in some steps only are refused.
        body: what is called; the pipeline's own call, below its decorators where one is torch.inference_mode.
        networks: names of the modules that are asked in the loop; known once one has been recorded.
        asked: a real call of each module.
        texts: what ``encode_prompt`` gave, by arguments.
        changes: names of the modules of which the pipeline changes anything in its loop, where steps need not be alike.
        doubted: names of modules whose real answers have not shown that their rows are apart; see ``apart.ask``.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.steps_alike = True
        self.body: Callable[..., Any] = type(pipe).__call__
        self.modules = modules_of(pipe)
        self.takes = inspect.signature(type(pipe).__call__).parameters
        self.networks: set[str] = set()
        self.asked: dict[str, NetworkCall] = {}
        self.texts: dict[str, list[Text]] = {}
        self.changes: set[str] = set()
        self.doubted: set[str] = set()

    def record(
        self,
        call: Mapping[str, Any],
        rows: int,
        *,
        real: bool = False,
        steps: int | None = None,
        stop_after: int | None = None,
        last_state: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Recording:
        """Call the pipeline once.

        Args:
            call: arguments of its ``__call__``.
            rows: how many pictures they ask for.
            real: whether the networks are asked in the first step for what they are given. In the first recording they
                are asked too, with rows in it that are not a number.
            steps: how many steps the loop has, where that is known, so that its last one is.
            stop_after: end the call after so many steps.
            last_state: the state that the last step leads to, from the one before it.

        Raises:
            CannotProbe: the call raised, or did what cannot be replayed.
        """
        plain = {name: PlainState(module) for name, module in self.modules.items()}
        run = _Run(self, rows, plain, real, steps, stop_after, last_state)
        with random_kept(), quiet():
            before = random_states()
            try:
                with torch.no_grad():
                    run.recording.pictures = self.body(run.copied(), **call)
            except Stop:
                pass
            except CannotProbe:
                raise
            except Exception as error:
                reason = " ".join(str(error).split()).rstrip(".")
                reason = reason if len(reason) < 160 else reason[:157] + "..."
                raise CannotProbe(f"its own call raised {type(error).__name__}: {reason}") from error
            finally:
                for hook in getattr(self.pipe, "_all_hooks", ()):  # accelerate's, of offloaded models
                    hook.offload()
                for state in plain.values():
                    state.restore()
            if any(not torch.equal(a, b) for a, b in zip(before, random_states(), strict=False)):
                raise CannotProbe(
                    "its call draws from torch's global random generator, so no seed can repeat its pictures"
                )
        if not run.recording.steps:
            raise CannotProbe("its call ended without a step of its scheduler")
        for name, stand_in in run.stand_ins.items():
            if stand_in.attributes_set:
                run.recording.changed[name] = stand_in.attributes_set[0]
        if run.inference:
            if self.body is inspect.unwrap(self.body):
                raise CannotProbe("it runs in torch.inference_mode, which no gradient passes: use torch.no_grad there")
            # Nothing that was made in this mode may take part in a gradient.
            self.body = inspect.unwrap(self.body)
            self.networks, self.asked, self.texts, self.changes = set(), {}, {}, set()
            return self.record(call, rows, real=real, steps=steps, stop_after=stop_after, last_state=last_state)
        if not self.networks and len(run.recording.steps) > 1:
            run.recording.forget_preparation(self.steps_alike)
            self.networks = {call.name for step in run.recording.steps for call in step.calls}
        return run.recording


class _Run(Shadow):
    """The stand-ins of one call."""

    def __init__(
        self,
        recorder: Recorder,
        rows: int,
        plain: dict[str, PlainState],
        real: bool,
        steps: int | None,
        stop_after: int | None,
        last_state: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        super().__init__(recorder.pipe, recorder.modules, recorder.texts)
        self.recorder, self.plain, self.real, self.count, self.stop_after = recorder, plain, real, steps, stop_after
        self.last_state = last_state
        self.recording = Recording(rows)
        self.random = torch.Generator().manual_seed(0)
        self.calls: list[NetworkCall] = []
        self.scaled: torch.Tensor | None = None
        self.expected: torch.Tensor | None = None
        self.inference = False
        self.plain_then = plain  # what networks are compared with in later steps
        self.asked_really = False  # networks, which may make tables for themselves
        self.recording.scheduler = self.scheduler

    # ---- the scheduler ----------------------------------------------------------------------------------------

    def _set_timesteps(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(*args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        self.recording.times = {k: v for k, v in given.items() if v is not None and k != "device"}
        return own(*args, **kwargs)

    def _scale(self, own: Callable[..., Any], sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Only the first state is one that the scheduler knows; all others are made up.
        out: torch.Tensor = sample if self.recording.steps else own(sample, *args, **kwargs)
        if sample.ndim:
            self.scaled = out[: self.recording.rows]
        return out

    def _noised(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        clean = args[0] if args else next(iter(kwargs.values()))
        if not self.recording.steps and isinstance(clean, torch.Tensor):
            self.recording.start, self.recording.noised = clean, own(*args, **kwargs)
            return self.recording.noised
        return own(*args, **kwargs)

    def _step(
        self,
        own: Callable[..., Any],
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> StepOutput:
        recording = self.recording
        _check_settings(own, (model_output, timestep, sample, *args), kwargs)
        if self.expected is not None and not torch.equal(sample.to(self.expected.dtype), self.expected):
            raise CannotProbe("it changes the state between two steps of its scheduler, as inpainting by blending does")
        if not isinstance(sample, torch.Tensor) or len(sample) != recording.rows:
            given = list(sample.shape) if isinstance(sample, torch.Tensor) else shown(sample)
            raise CannotProbe(
                f"it hands its scheduler {given} for {recording.rows} pictures, where one row a picture is needed"
            )
        if not self.calls:
            raise CannotProbe("it takes a step without asking a network")
        self.inference = torch.is_inference_mode_enabled()
        if not self.recorder.steps_alike:
            self._note_changes()
        elif recording.steps:
            self._check_untouched()
        if not recording.steps:
            recording.unscaled = self.scaled is None and self._scales(sample, timestep)
            recording.changed = {name: state.changed() for name, state in self.plain.items()}
        scaled = sample if self.scaled is None else self.scaled
        if scaled.shape != sample.shape and scaled.ndim == sample.ndim:
            scaled = scaled[:, : sample.shape[1]]  # scaled together with what is beside it
        recording.steps.append(Step(timestep, sample, scaled, self.calls, model_output))
        self.calls, self.scaled = [], None
        done = len(recording.steps)
        if done == 1 and self.asked_really:
            # Networks that have been asked may have made tables for themselves.
            self.plain_then = {call.name: PlainState(self.modules[call.name]) for call in recording.steps[0].calls}
        if done == self.stop_after:
            raise Stop
        if done == self.count and self.last_state is not None:
            following = self.last_state(sample)
        else:
            following = torch.randn(sample.shape, generator=self.random, dtype=torch.float32).to(sample)
        self.expected = following
        return StepOutput((following, following))

    def _scales(self, sample: torch.Tensor, timestep: Any) -> bool:
        """Whether the scheduler would have made another state for the networks of the first one."""
        own = getattr(type(self.scheduler), "scale_model_input", None)
        return own is not None and not torch.equal(own(self.scheduler, sample, timestep), sample)

    def _note_changes(self) -> None:
        """Which modules are not as they were before the call, of which none has made tables for itself."""
        changes = self.recorder.changes
        if not self.asked_really:
            changes |= {name for name, state in self.plain.items() if name not in changes and state.touched()}

    def _check_untouched(self) -> None:
        """CannotProbe where the pipeline has switched something in a network since the first step."""
        for name, state in self.plain_then.items():
            touched = None if self.recorder.networks and name not in self.recorder.networks else state.touched()
            if touched is not None:
                raise CannotProbe(f"it changes {touched} of its {name} from step to step")

    # ---- the networks -----------------------------------------------------------------------------------------

    def _decode(self, name: str, stand_in: StandIn, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.recording.steps:
            raise CannotProbe("it decodes latents before its first step")
        kind: Any = type(self.modules[name])
        given = inspect.signature(kind.decode).bind(None, z, *args, **kwargs).arguments
        further = list(given.items())[2:]
        for argument, value in dict([*further, *given.get("kwargs", {}).items()]).items():
            if argument in _NOT_DECODING or value is None:
                continue
            if not isinstance(value, (bool, int, float, str)):
                raise CannotProbe(f"it decodes with {argument}={shown(value)}, which may differ from view to view")
            self.recording.decoding[argument] = value
        self.recording.decoded, self.recording.decoder = z, name
        self.recording.decoder_dtype = stand_in.cast_to
        raise Stop

    def _answer(self, name: str, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        recorder, in_loop = self.recorder, bool(self.recording.steps)
        known = recorder.networks
        if known and name not in known and not in_loop:
            return self._outside(module)(*args, **kwargs)
        unknown = name not in (known if known and in_loop else recorder.asked)
        if in_loop and unknown and recorder.steps_alike:
            raise CannotProbe(f"it asks its {name} in some steps only")
        call = NetworkCall(name, kept(args), kept(kwargs))
        if (in_loop or (known and not self.real)) and name in recorder.asked:
            call.output = made_up(call, recorder.asked[name], self.random)
            self._resemble(name, first(call.output))
        else:
            # Copies, since a network may write into what it is given.
            call.args, call.kwargs = cloned(call.args), cloned(call.kwargs)
            if self.real:
                call.output = self._outside(module)(*args, **kwargs)
            else:
                call.output, apart = ask(module, args, kwargs, self.recording.rows)
                recorder.doubted |= set() if apart else {name}
            recorder.asked[name], self.asked_really = call, True
        self.calls.append(call)
        return kept(call.output)

    def _resemble(self, name: str, prediction: Any) -> None:
        """Make the last two rows of all parts of a step alike, but for a factor: guidance shortens one of them.

        Some pipelines bound the length of what they make of the halves, which random halves alone would not show.
        """
        rows = self.recording.rows
        if rows < _ALIKE or not isinstance(prediction, (torch.Tensor, list)):
            return
        before = [first(call.output) for call in self.calls if call.name == name]
        parts = [p[k : k + rows] for p in (*before, prediction) for k in range(0, len(p), rows)]
        for part in parts[1:]:
            if len(part) == rows and part[0].shape == parts[0][0].shape:
                part[rows - 1].copy_(parts[0][rows - 1] * _FACTOR)
                part[rows - 2].copy_(parts[0][rows - 2] / _FACTOR)


def _check_settings(own: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """CannotProbe where a scheduler's step is given settings of its own, which fastsync's steps would leave out."""
    signature = inspect.signature(own)
    for name, value in list(signature.bind(*args, **kwargs).arguments.items())[3:]:
        default = signature.parameters[name].default
        plain = isinstance(value, (int, float)) and name not in ("return_dict", "generator")
        if plain and value != default and value != 0:
            raise CannotProbe(f"it takes its scheduler's steps with {name}={value}, which fastsync's steps do not know")


def made_up(call: NetworkCall, real: NetworkCall, random: torch.Generator) -> Any:
    """Random numbers in the form of a real output, for the rows of this call.

    In float32 whatever the network computes in, so that what the pipeline makes of them can be told exactly.
    """
    now, then = batch_of(call), batch_of(real)

    def leaf(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        batched = value.ndim > 0 and len(value) == then and not listed(real)
        shape = (now, *value.shape[1:]) if batched else value.shape
        return torch.randn(shape, generator=random, dtype=torch.float32).to(value.device)

    def made(tree: Any) -> Any:
        if listed(real) and isinstance(tree, list) and len(tree) == then:
            return [mapped(leaf, tree[0]) for _ in range(now)]
        if isinstance(tree, dict):
            return type(tree)(**{key: made(value) for key, value in tree.items()})
        if type(tree) in (list, tuple):
            return type(tree)(made(value) for value in tree)
        return leaf(tree)

    return made(real.output)


def listed(call: NetworkCall) -> bool:
    """Whether a call has its rows as a list of tensors, its first argument."""
    given = next(iter([*call.args, *call.kwargs.values()]), None)
    return isinstance(given, list) and bool(given) and all(isinstance(row, torch.Tensor) for row in given)


def batch_of(call: NetworkCall) -> int:
    """How many rows a call has: those of its first argument, which every network of diffusers takes states by."""
    given = next((v for v in [*call.args, *call.kwargs.values()] if isinstance(v, (list, torch.Tensor))), None)
    if given is None or (isinstance(given, torch.Tensor) and not given.ndim):
        raise CannotProbe(f"the {call.name} is asked without a batch of states")
    return len(given)
