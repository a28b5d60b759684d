"""Any diffusers pipeline as a prior: its networks, asked as its own call asks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from .. import ops
from ..conditions import Conditions
from ..diffusion import StepTable
from ..errors import check_int
from ..guidance import Guidance
from .base import Prediction
from .called import CalledPrior
from .probe import describing
from .probe.calling import groups, guidance_argument, own_scale
from .probe.guidance import RULES, Combination
from .probe.learning import check, clean_start, halves_alike, learn, learn_tail, rounding, rows_alike, stackable
from .probe.nested import same
from .probe.recipe import Half, Recipe
from .probe.recording import Recording
from .probe.refusal import CannotProbe, refusing
from .probe.timing import own_steps
from .request import Told, ViewRequest
from .reuse import DeepFeatures
from .shared_attention import VIEW_LABELS, NeighbourLists, SharedAttention, not_shared

RECIPE, RECIPES, RULE = "recipe", "recipes", "rule"  # names among the conditions


class ProbedPrior(CalledPrior):
    """The prior inside any diffusers pipeline whose ``__call__`` can be learnt.

    The pipeline is called with stand-ins for its scheduler and its networks, which show how the networks are asked and
    what becomes of their answers (docs/any-pipeline.md). Nothing names a family. Views are the pipeline's latents in
    the layout of its autoencoder, or pixels in [-1, 1] where it has none. Conditions have the names of the networks'
    arguments; :meth:`told` makes them.

    Args:
        pipe: a pipeline, on its device, in its dtype, with its scheduler.
        window: (height, width) of a view in pixels; the pipeline's own default if None.
        runtime, solver: as in :class:`fastsync.DiffusersPrior`.
        conditioning_scale: what a ControlNet's residuals are multiplied by; the pipeline's own if None.
        pipe_kwargs: further arguments of the pipeline's call, :class:`fastsync.ByView` where views differ.
        neighbours: as in :class:`fastsync.DiffusersPrior`, of pipelines with a UNet and without a ControlNet.
        example: the kind of request that is going to be made; what a pipeline's call needs to run at all.
        num_inference_steps: of the run that is planned: what changes in one of its steps shows here.

    Raises:
        ValueError: arguments that the pipeline's call does not take.
        CannotProbe: the pipeline does something that probing cannot learn (says what).
    """

    way: ClassVar[str] = "probe"
    needed_conditions = (RECIPES,)

    def _learn(self, neighbours: NeighbourLists | None) -> None:
        self._rule: tuple[str, float] | None = None  # of guidance that is not linear, and its strength
        self._run: tuple[int, Recording] | None = None
        self._learnt, _, many = learn(self._recorder, self._calling, self._call)
        check(self._learnt, self._recorder, self._calling, self._call)
        self._laid_out(learn_tail(many, self.pipe), many.decoder, self._learnt.state_shape)
        self.sharing: SharedAttention | None = None
        if neighbours is not None:
            unet = self._unet
            if unet is None:
                raise not_shared(self.pipe)
            self.sharing = SharedAttention(unet, neighbours)
            self.runtime = self.runtime.also(self.sharing)

    def _planned(self, num_inference_steps: int) -> None:
        self._recorded(num_inference_steps)

    @property
    def _unet(self) -> Any:
        """The UNet, where the pipeline asks one and nothing else."""
        names = {template.network for template in self._learnt.templates}
        network = getattr(self.pipe, names.pop()) if len(names) == 1 else None
        model = getattr(network, "_orig_mod", network)
        return network if type(model).__name__ == "UNet2DConditionModel" else None

    @property
    def _denoiser(self) -> str:
        return self._learnt.templates[-1].network

    # ---- the network ------------------------------------------------------------------------------------------

    def network(self, x: torch.Tensor, t: torch.Tensor, cond: Conditions | None) -> torch.Tensor:
        """The networks at noisy views x [B, C, h, w], times t [B], and what :meth:`told` gave for the rows."""
        told = self._checked(cond)
        t = t.expand(len(x))
        if self.sharing is not None and self.sharing.active:
            order = self.sharing.row_order(told)
            rows = told.without(VIEW_LABELS)
            assert rows is not None  # it has recipes
            return self._of_rows(x[order], t[order], rows.select(order.tolist()))[order.argsort()]
        return self._of_rows(x, t, told)

    def _of_rows(self, x: torch.Tensor, t: torch.Tensor, told: Conditions) -> torch.Tensor:
        recipes: Sequence[Recipe] = told[RECIPES]
        ragged = [name for name, value in told.rows.items() if isinstance(value, list) and name != RECIPE]
        if len(recipes) == 1 and not ragged and not recipes[0].needs_one_time:
            return self._asked(recipes[0], x, t, told)
        parts = self._parts(told, t, recipes, ragged)
        if len(parts) == 1:
            return self._asked(parts[0][0], x, t, told)
        outputs = [self._asked(recipe, x[rows], t[rows], told.select(rows)) for recipe, rows in parts]
        order = torch.tensor([row for _, rows in parts for row in rows], device=x.device)
        return torch.cat(outputs)[order.argsort()]

    def _checked(self, cond: Conditions | None) -> Conditions:
        wrong = repr(cond)
        if cond is not None and RECIPES in cond.shared:
            known = {name for recipe in cond[RECIPES] for name in recipe.names}
            missing = known - cond.rows.keys()
            foreign = cond.rows.keys() - known - {RECIPE, VIEW_LABELS}
            if not missing and not foreign:
                if cond.shared.get(RULE, self._rule) != self._rule:
                    raise ValueError(
                        f"cond is of an earlier told() of this prior, whose guidance {type(self.pipe).__name__} "
                        "rescales in another way: call prior.told(request) again."
                    )
                return cond
            wrong = f"without {sorted(missing)[0]!r}" if missing else f"with {sorted(foreign)[0]!r} beside it"
        raise ValueError(
            f"cond is {wrong}, but {type(self.pipe).__name__} is asked by what was learnt of its call: pass what "
            "prior.told(request) or prior.encode_prompt(prompt) gives."
        )

    @staticmethod
    def _parts(
        told: Conditions, t: torch.Tensor, recipes: Sequence[Recipe], ragged: Sequence[str]
    ) -> list[tuple[Recipe, list[int]]]:
        """The rows that can be asked together, with their recipe; ``ragged`` conditions may have rows of any shape."""
        chosen = told[RECIPE] if RECIPE in told.rows else [0] * len(t)
        times = t.tolist() if any(recipe.needs_one_time for recipe in recipes) else None
        found: dict[tuple[Any, ...], list[int]] = {}
        for row, number in enumerate(chosen):
            listed = recipes[number].names
            shapes = [getattr(told.rows[n][row], "shape", None) for n in ragged if not listed.get(n, True)]
            key = (number, *shapes, None if times is None else times[row])
            found.setdefault(key, []).append(row)
        return [(recipes[key[0]], rows) for key, rows in found.items()]

    def _asked(self, recipe: Recipe, x: torch.Tensor, t: torch.Tensor, told: Conditions) -> torch.Tensor:
        return self.layout.unpacked(recipe(self.pipe, self.layout.packed(x), t, told.rows))

    def _known(self) -> dict[str, str]:
        """What was learnt, by subject."""
        known = super()._known()
        calls = {f"call {k}": describing.call(c) for k, c in enumerate(self._learnt.templates, 1)}
        learnt = {"guidance": describing.guidance(self._learnt.combination), "state": describing.layout(self.layout)}
        del known["conditions"]
        return {**known, **calls, **learnt}

    @property
    def mixes_linearly(self) -> bool:
        """Whether guidance is linear in the two halves."""
        return self._rule is None

    def estimates(
        self,
        raw: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        guidance_scale: torch.Tensor | float,
        rescale: float = 0.0,
    ) -> Prediction:
        """As every prior's, with the pipeline's own rescaling of guidance where it has one."""
        if self._rule is None or len(raw) != 2 * len(x):
            return super().estimates(raw, x, a, b, guidance_scale, rescale)
        uncond, cond = self.layout.packed(raw.to(x.dtype)).chunk(2)
        s = torch.as_tensor(guidance_scale).to(x).expand(len(x)).reshape(-1, *[1] * (cond.ndim - 1))
        rule, strength = self._rule
        mixed = RULES[rule](cond, torch.lerp(uncond, cond, s), strength)
        # Outside of guidance's interval (s = 1) nothing is rescaled.
        guided = self.layout.unpacked(torch.where(s == 1.0, cond, mixed))
        x0, eps = ops.cfg_tweedie(guided, None, x, a, b, 1.0, self.schedule.prediction_type)
        return Prediction(*self.schedule.clip_prediction(x0, eps, x, a, b))

    def deep_features(self) -> DeepFeatures:
        """A new, empty store of the UNet's deep features, for one batch of views.

        Raises:
            ValueError: the pipeline's network is no UNet, has a single level, or is compiled as a whole.
        """
        unet = self._unet
        return super().deep_features() if unet is None else DeepFeatures.of(unet, self.runtime.compile)

    def prepare_conditions(
        self, cond: Conditions | None, uncond: Conditions | None, num_views: int
    ) -> tuple[Conditions | None, Conditions | None]:
        """Where self-attention is shared, conditions with the labels of their views."""
        return (cond, uncond) if self.sharing is None else self.sharing.labelled(cond, uncond, num_views)

    # ---- conditions -------------------------------------------------------------------------------------------

    def told(self, request: ViewRequest) -> Told:
        """Conditions of all views, from calls of the pipeline with each view's own arguments.

        Raises:
            ValueError: the pipeline's call cannot say what is asked for.
            CannotProbe: a view's call differs from the others in more than its values.
        """
        with refusing(self.pipe):
            return self._told(request)

    def _told(self, request: ViewRequest) -> Told:
        calling = self._calling
        calling.check(request)
        calling.extra = guidance_argument(self._recorder, calling, request)
        calling.seed(request.seed)
        calls = [calling.of_view(request, view) for view in range(request.num_views)]
        together = groups(calls)
        self._call = calls[0]
        try:
            together, found = self._gathered_groups(calls, together)
        except CannotProbe:  # another form than that of the calls before
            self._learnt, _, _ = learn(self._recorder, calling, self._call)
            self._run = None
            together, found = self._gathered_groups(calls, together)
        if tuple(self._learnt.state_shape) != tuple(self.layout.state_shape):
            raise CannotProbe(
                f"its views are states of {list(self._learnt.state_shape)} where the window makes "
                f"{list(self.layout.state_shape)}: pass window=, or pictures of the window's size"
            )
        halves = [[f[0][k] for f in found] for k in (0, 1)]
        order = torch.tensor([view for group in together for view in group]).argsort()  # from gathered rows to views
        guided = self._learnt.combination.uncond is not None
        guidance = self._guidance(self._learnt.combination, request)
        cond, uncond = self._conditions(halves[0], halves[1] if guided else None, together, order.tolist())
        start: torch.Tensor | None = None
        if found[0][1] is not None:
            start = torch.cat([f[1] for f in found if f[1] is not None])[order]
        return Told(cond, uncond, guidance, start, own_scale(calling, request, guidance, guided))

    def _gathered_groups(
        self, calls: list[dict[str, Any]], together: list[list[int]]
    ) -> tuple[list[list[int]], list[tuple[tuple[Half, Half | None], torch.Tensor | None]]]:
        """Groups of views whose calls were made as one, and what was gathered of each."""
        found = [self._gathered([calls[view] for view in group]) for group in together]
        for group, (halves, _) in zip(together, found, strict=True):
            if all(same(calls[view], calls[group[0]]) for view in group):
                continue
            # What one text becomes may depend on those beside it.
            alone = self._alone(calls[group[0]])
            if alone is None:
                continue
            if not rows_alike(halves, self._learnt.replay(alone), rounding(alone.steps[0])):
                together = [[view] for view in range(len(calls))]
                return together, [self._gathered([call]) for call in calls]
        return together, found

    def _alone(self, call: dict[str, Any]) -> Recording | None:
        """A call of one view; None where its text makes none, as an empty one may."""
        try:
            return self._recorder.record(self._calling.joined([call]), 1, stop_after=1)
        except CannotProbe:
            return None

    def _gathered(self, calls: list[dict[str, Any]]) -> tuple[tuple[Half, Half | None], torch.Tensor | None]:
        """Rows of both halves, and clean views to begin from, of views whose calls differ in their texts alone."""
        # One picture stands for views that are all alike.
        alike = all(same(call, calls[0]) for call in calls)
        rows, count = (1 if alike else len(calls)), len(calls)
        call = self._calling.joined(calls[:rows])
        recording = self._recorder.record(call, rows, stop_after=self._learnt.steps)
        cond, uncond = self._learnt.replay(recording)
        start = clean_start(recording, self.layout)
        if start is not None:
            start = start.expand(count, *start.shape[1:]) if len(start) == 1 else start[:count]
        if rows == 1:
            cond = _repeated(cond, count)
            uncond = None if uncond is None else _repeated(uncond, count)
        return (cond, uncond), start

    def _conditions(
        self,
        cond: Sequence[Half | None],
        uncond: Sequence[Half | None] | None,
        together: list[list[int]],
        order: list[int],
    ) -> tuple[Conditions, Conditions | None]:
        """Conditions of rows that were gathered in groups of views; ``order`` says which is each view's."""
        recipes: list[Recipe] = []
        columns: list[dict[str, list[Any]]] = []
        both = [cond] if uncond is None else [cond, uncond]
        names = dict.fromkeys(name for halves in both for half in halves if half is not None for name in half[1])
        for halves in both:
            column: dict[str, list[Any]] = {name: [] for name in (RECIPE, *names)}
            for half, group in zip(halves, together, strict=True):
                assert half is not None
                recipe, rows = half
                number = next((k for k, known in enumerate(recipes) if known.equals(recipe)), len(recipes))
                if number == len(recipes):
                    recipes.append(recipe)
                column[RECIPE] += [number] * len(group)
                for name in names:
                    column[name] += rows.get(name, [None] * len(group))
            columns.append({name: [values[i] for i in order] for name, values in column.items()})
        if len(recipes) == 1:
            columns = [{name: values for name, values in column.items() if name != RECIPE} for column in columns]
        shared = {RECIPES: tuple(recipes), **({} if uncond is None else {RULE: self._rule})}
        stacked = {
            name: name != RECIPE and stackable([v for column in columns for v in column[name]]) for name in columns[0]
        }
        made = [
            Conditions({n: torch.stack(v) if stacked[n] else v for n, v in column.items()}, shared)
            for column in columns
        ]
        return made[0], made[1] if uncond is not None else None

    def _guidance(self, found: Combination, request: ViewRequest) -> Guidance:
        """How the halves are combined: the caller's guidance in fastsync's terms."""
        asked = request.guidance
        if found.uncond is None:  # and what was told before keeps its rule
            if asked is not None and asked != Guidance(asked.scale):
                raise ValueError(
                    f"{type(self.pipe).__name__} tells its network the guidance scale, so rescale and interval have no "
                    "effect: leave them out."
                )
            return Guidance(1.0)
        scale = float(f"{found.scale:.5g}")
        if asked is not None:
            near = [value for value in (asked.scale, 1 + asked.scale) if abs(found.scale - value) < 2e-3 * abs(value)]
            scale = near[0] if near else scale
        rescale, interval = (0.0, (0.0, 1.0)) if asked is None else (asked.rescale, asked.interval)
        if found.rule == "deviation":
            rescale = found.strength
        nonlinear = found.rule not in ("linear", "deviation")
        self._rule = (found.rule, found.strength) if nonlinear else None
        return Guidance(scale, rescale, interval)

    # ---- times ------------------------------------------------------------------------------------------------

    def steps(self, num_inference_steps: int, eta: float = 0.0) -> StepTable:
        """The run's step table at the times that the pipeline itself sets.

        Raises:
            CannotProbe: the pipeline takes its steps at other times than its scheduler has, or in another way.
        """
        count = check_int("num_inference_steps", num_inference_steps)
        with refusing(self.pipe):
            return own_steps(self.schedule, self._recorded(count), count, eta)

    def _recorded(self, count: int) -> Recording:
        """A call of so many steps, each of which is one that was learnt."""
        if self._run is None or self._run[0] != count:
            recording = self._recorder.record(self._calling.repeated(self._call, 1, count), 1)
            if any(bool(torch.as_tensor(step.t).isnan().any()) for step in recording.steps):
                raise ValueError(
                    f"num_inference_steps={count} gives {type(self.pipe).__name__} times that are no numbers: take "
                    "more steps."
                )
            # The rows of told() were made in short calls.
            short = self._recorder.record(self._calling.repeated(self._call, 1, self._learnt.steps), 1, stop_after=1)
            bound = rounding(recording.steps[0])
            if not halves_alike(self._learnt.replay(recording), self._learnt.replay(short), bound):
                raise CannotProbe("what it tells its networks depends on the number of steps")
            self._run = count, recording
        return self._run[1]


def _repeated(half: Half, count: int) -> Half:
    """One picture's rows for so many views alike."""
    return half[0], {name: values * count for name, values in half[1].items()}
