"""The contract of priors: a family supplies a tiny pipeline, its prior and its conditions, and inherits the tests."""

import accelerate
import pytest
import torch
from exact_priors import randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.conditions import joined

SCALE = 3.0  # of guidance
VIEWS = 3
PROMPTS = ["a cat", "a dog", "zebra"]


def sentence(error):
    """What an error says, which is one short line."""
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 320, message
    return message


class FunctionContract:
    """What every prior does.

    A subclass is named ``Test...`` and gives :meth:`make` and :meth:`conditions`.
    """

    names: tuple[str, ...] = ()  # of the conditions
    tolerance = 1e-9  # relative, of batches in float64

    # ---- what a family supplies ---------------------------------------------------------------------------------

    def make(self, dtype=torch.float32):
        """A new prior that computes in a dtype."""
        raise NotImplementedError

    def conditions(self, prior, count=VIEWS):
        """``(cond, uncond)`` of so many views, one row a view, all different."""
        raise NotImplementedError

    # ---- helpers ------------------------------------------------------------------------------------------------

    def told(self, prior, count=VIEWS):
        """The conditions as the prior's network gets them."""
        cond, uncond = self.conditions(prior, count)
        rows = list(range(count))
        return tuple(fs.Conditions.of(c, prior.condition_name).select(rows) for c in (cond, uncond))

    def times(self, prior, *times):
        """Times as the scheduler has them."""
        return torch.tensor(times, dtype=torch.float32 if prior.schedule.kind == "flow" else torch.int64)

    def views(self, prior, count=VIEWS, seed=0, dtype=torch.float64):
        return randn(count, *prior.view_shape, seed=seed, dtype=dtype)

    def sampled(self, prior, method=None, **settings):
        """Three windows side by side."""
        c, h, w = prior.view_shape
        cond, uncond = self.conditions(prior)
        wide = torch.promote_types(prior.dtype, torch.float32)
        given = {
            "cond": cond, "uncond": uncond, "guidance_scale": SCALE, "num_inference_steps": 2,
            "latents": randn(1, c, h, 2 * w, dtype=wide), "generator": torch.Generator().manual_seed(0),
        }  # fmt: skip
        canvas = fs.WideCanvas((h, 2 * w), (h, w), w // 2)
        return fs.sample(prior, canvas, method or fs.SyncVC(iterations=2), **{**given, **settings})

    # ---- shapes, dtypes -----------------------------------------------------------------------------------------

    def test_what_it_says_of_itself(self):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            prior = self.make(dtype)
            assert isinstance(prior, fs.Prior) and prior.dtype == dtype and prior.device == torch.device("cpu")
            assert len(prior.view_shape) == 3 and all(isinstance(side, int) for side in prior.view_shape)
            assert prior.scale == prior.codec.scale >= 1 and prior.has_network

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_estimates_have_the_shape_and_precision_of_the_views(self, dtype):
        prior = self.make(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        x, t = self.views(prior, dtype=wide), self.times(prior, 801, 300, 41)
        for cond, uncond in (self.told(prior), (self.told(prior)[0], None)):
            with torch.no_grad():
                prediction = prior.predict(x, t, cond, uncond, SCALE)
            for estimate in prediction:
                assert estimate.shape == x.shape and estimate.dtype == wide and torch.isfinite(estimate).all()
            a, b = (c.to(wide)[:, None, None, None] for c in prior.schedule.coefficients(t))
            assert relative(a * prediction.x0 + b * prediction.eps, x) < (1e-2 if dtype == torch.bfloat16 else 1e-5)
        if dtype == torch.bfloat16:
            exact = self.make(torch.float32)
            with torch.no_grad():
                near = exact.predict(x, t, self.told(exact)[0])
                assert relative(prior.predict(x, t, self.told(prior)[0]).eps, near.eps) < 0.1

    # ---- batches ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("times", [(500, 500, 500), (801, 300, 41)], ids=["one time", "a time each"])
    def test_a_batch_is_what_single_calls_give(self, times):
        prior = self.make(torch.float64)
        x, t, (cond, uncond) = self.views(prior), self.times(prior, *times), self.told(prior)
        with torch.no_grad():
            for half in (None, uncond):
                whole = prior.predict(x, t, cond, half, SCALE)
                for i in range(VIEWS):
                    own = None if half is None else half.select([i])
                    single = prior.predict(x[i : i + 1], t[i : i + 1], cond.select([i]), own, SCALE)
                    for got, expected in zip(whole, single, strict=True):
                        assert relative(got[i : i + 1], expected) < self.tolerance
        spread = [relative(whole.eps[i], whole.eps[0]) for i in (1, 2)]
        assert min(spread) > 1e-3  # else the order of the rows would not show

    def test_times_and_conditions_matter(self):
        prior = self.make(torch.float64)
        x, (cond, uncond) = self.views(prior), self.told(prior)
        with torch.no_grad():
            first, second, third = (
                prior.predict(x, self.times(prior, t).expand(VIEWS), c).eps
                for t, c in ((500, cond), (300, cond), (500, uncond))
            )
        assert relative(second, first) > 1e-4 and relative(third, first) > 1e-4

    def test_one_condition_and_one_time_serve_all_views(self):
        prior = self.make()
        x, t, (cond, uncond) = self.views(prior, dtype=torch.float32), self.times(prior, 500), self.told(prior)
        one = [c.select([0]) for c in (cond, uncond)]
        rows = [c.select([0] * VIEWS) for c in (cond, uncond)]
        with torch.no_grad():
            expected = prior.predict(x, t.expand(VIEWS), *rows, SCALE)
            for given in (t, t[0]):
                got = prior.predict(x, given, *one, SCALE)
                assert torch.equal(got.x0, expected.x0) and torch.equal(got.eps, expected.eps)

    def test_guidance_in_one_batch_is_two_calls_and_the_formula(self):
        prior = self.make(torch.float64)
        x, t, (cond, uncond) = self.views(prior), self.times(prior, 801, 300, 41), self.told(prior)
        with torch.no_grad():
            guided = prior.predict(x, t, cond, uncond, SCALE)
            halves = [prior.predict(x, t, c) for c in (uncond, cond)]
            both = prior.network(torch.cat([x, x]), torch.cat([t, t]), joined(uncond, cond))
            alone = torch.cat([prior.network(x, t, c) for c in (uncond, cond)])
        assert relative(both, alone) < self.tolerance
        for got, of_uncond, of_cond in zip(guided, *halves, strict=True):
            mixed = of_uncond + SCALE * (of_cond - of_uncond)
            assert (relative(got, mixed) < 1e-6) == prior.mixes_linearly
            assert relative(of_cond, of_uncond) > 1e-5

    def test_every_order_and_batch_gives_the_same_numbers(self):
        prior = self.make(torch.float64)
        method = fs.SyncVC(iterations=1)
        first = self.sampled(prior, method, order="sequential")
        assert first.views.dtype == torch.float64 and first.stats.gradients > 0
        for settings in ({"order": "wavefront"}, {"order": "wavefront", "max_batch": 2, "fixed_batches": True}):
            other = self.sampled(prior, method, **settings)
            assert relative(other.views, first.views) < self.tolerance
            assert other.stats.evaluations == first.stats.evaluations

    def test_conditions_may_be_prepared_or_not(self):
        prior = self.make(torch.float64)
        x, t, told = self.views(prior), self.times(prior, 801, 300, 41), self.told(prior)
        with torch.no_grad(), prior.sampling():
            expected = prior.predict(x, t, *told, SCALE)
            got = prior.predict(x, t, *prior.prepare_conditions(*told, VIEWS), SCALE)
        assert relative(got.eps, expected.eps) < self.tolerance

    # ---- gradients ----------------------------------------------------------------------------------------------

    def test_gradients_are_those_of_finite_differences(self):
        prior = self.make(torch.float64)
        x, t, told = self.views(prior), self.times(prior, 801, 300, 41), self.told(prior)
        weights = [self.views(prior, seed=seed) for seed in (1, 2)]

        def value(x):
            return sum((w * e).sum() for w, e in zip(weights, prior.predict(x, t, *told, SCALE), strict=True))

        leaf = x.clone().requires_grad_()
        with prior.sampling():
            [gradient] = torch.autograd.grad(value(leaf), leaf)
            for seed in (3, 4, 5):
                direction = self.views(prior, seed=seed)
                with torch.no_grad():
                    slope = (value(x + 1e-5 * direction) - value(x - 1e-5 * direction)) / 2e-5
                assert abs(float((gradient * direction).sum() - slope)) < 1e-5 * float(gradient.norm())
        # A view's gradient is its own.
        [row] = torch.autograd.grad(prior.predict(leaf, t, *told, SCALE).eps[1].sum(), leaf)
        assert row[1].abs().max() > 0 and not row[[0, 2]].any()

    # ---- pixels -------------------------------------------------------------------------------------------------

    def test_pixels_and_back(self):
        prior = self.make(torch.float64)
        _, h, w = prior.view_shape
        size = (h * prior.scale, w * prior.scale)
        pixels = (2 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1).double()
        with torch.no_grad():
            latents = prior.encode(pixels)
            assert latents.shape[0] == 2 and latents.shape[2:] == (h, w)
            decoded = prior.decode(latents)
            assert decoded.shape == pixels.shape and torch.isfinite(decoded).all()
            assert relative(prior.decode(latents[:1]), decoded[:1]) < 1e-10
        leaf, direction = latents.clone().requires_grad_(), randn(*latents.shape, seed=1)
        [gradient] = torch.autograd.grad(prior.decode(leaf).square().sum(), leaf)
        with torch.no_grad():
            ends = [prior.decode(latents + sign * 1e-5 * direction).square().sum() for sign in (1, -1)]
        assert relative((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5) < 1e-5

    # ---- conditions ---------------------------------------------------------------------------------------------

    def test_conditions_have_names(self):
        prior = self.make()
        for c in self.conditions(prior):
            assert set(fs.Conditions.of(c, prior.condition_name)) == set(self.names)


class PriorContract(FunctionContract):
    """What the prior of a diffusers pipeline does beside that.

    A subclass gives :meth:`make_pipe` and :meth:`make_prior` in place of :meth:`make`.
    """

    names = ("text",)
    networks: tuple[str, ...] = ("unet",)
    switches: tuple[str, ...] = ("attention", "compile", "channels_last")  # that change something in the networks
    sides = (8, 12)  # of another window, in cells
    few = 1  # steps, at least

    def make_pipe(self, dtype=torch.float32):
        """A new tiny pipeline in a dtype."""
        raise NotImplementedError

    def make_prior(self, pipe, **settings):
        """Its prior; settings as :func:`fastsync.priors.wrap` takes them."""
        return priors.wrap(pipe, **settings)

    def conditions(self, prior, count=VIEWS):
        return prior.encode_prompt(PROMPTS[:count], "grey")

    def make(self, dtype=torch.float32):
        return self.make_prior(self.make_pipe(dtype))

    def models(self, pipe):
        return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}

    # ---- the user's pipeline ------------------------------------------------------------------------------------

    def test_the_pipeline_is_bit_for_bit_as_before(self):
        pipe = self.make_pipe()
        getattr(pipe, self.networks[0]).train()  # a user's own choices, which must survive
        next(getattr(pipe, self.networks[0]).parameters()).requires_grad_(False)
        pipe.scheduler.set_timesteps(7, **self.times_of_ones_own(pipe))
        self.conditions(self.make_prior(pipe))  # text encoders of transformers get hooks of their own when first asked
        before, random = snapshot(pipe), torch.random.get_rng_state()
        prior = self.make_prior(pipe)
        self.sampled(prior)
        with torch.no_grad():
            _, h, w = prior.view_shape
            prior.decode(prior.encode(torch.zeros(1, 3, h * prior.scale, w * prior.scale)))
        assert differences(before, snapshot(pipe)) == []
        assert torch.equal(torch.random.get_rng_state(), random)

    def times_of_ones_own(self, pipe):
        """What ``set_timesteps`` needs besides."""
        return {}

    def test_weights_are_frozen_while_sampling_and_given_back(self):
        pipe = self.make_pipe()
        nets = [getattr(pipe, name) for name in self.networks]
        weights = [p for net in nets for p in net.parameters()]
        weights[0].requires_grad_(False)
        flags, during = [p.requires_grad for p in weights], []
        assert True in flags
        prior = self.make_prior(pipe)
        handle = nets[0].register_forward_hook(lambda *_: during.append(any(p.requires_grad for p in weights)))
        for method in (fs.MultiDiffusion(), fs.SyncVC(iterations=1)):
            self.sampled(prior, method)
            assert during and not any(during) and all(p.grad is None for p in weights)
            assert [p.requires_grad for p in weights] == flags
        handle.remove()
        for net in nets:
            handle = net.register_forward_hook(fail)
            with pytest.raises(KeyboardInterrupt):
                self.sampled(prior)
            handle.remove()
            assert [p.requires_grad for p in weights] == flags

    def test_what_is_switched_for_a_run_is_given_back_whatever_happens(self):
        pipe = self.make_pipe()
        values = {"attention": "sdpa", "compile": "regional", "channels_last": True}
        runtime = priors.Runtime.of(pipe, **{name: values[name] for name in self.switches})
        before = snapshot(pipe)
        prior = self.make_prior(pipe, runtime=runtime)
        for error in (KeyError, KeyboardInterrupt):
            with pytest.raises(error), prior.sampling():
                changed = " ".join(differences(before, snapshot(pipe)))
                for name, word in {"attention": "processor", "compile": "compiled", "channels_last": "strides"}.items():
                    assert (word in changed) == (name in self.switches), (name, changed)
                assert "requires_grad" in changed and "value" not in changed
                raise error
            assert differences(before, snapshot(pipe)) == []

    @pytest.mark.parametrize("how", ["model", "sequential"])
    def test_offloaded_pipelines_give_the_same_numbers_and_stay_offloaded(self, how):
        prior, settings = self.make(), {"method": fs.SyncVC(iterations=1), "num_inference_steps": self.few}
        expected = self.sampled(prior, **settings).views
        with torch.no_grad():
            pixels = prior.decode(expected)
        pipe = self.make_pipe()
        if how == "model":
            pipe.enable_model_cpu_offload(device="cpu")
        else:
            # What enable_sequential_cpu_offload does; its own "cpu:0" accelerate takes for another device than "cpu".
            for model in self.models(pipe).values():
                accelerate.cpu_offload(model, torch.device("cpu"))
        self.conditions(self.make_prior(pipe))
        before = snapshot(pipe, values=how == "model")
        for _ in range(2):
            prior = self.make_prior(pipe)
            assert relative(self.sampled(prior, **settings).views, expected) < 1e-6
            with torch.no_grad():
                assert relative(prior.decode(expected), pixels) < 1e-6
            assert differences(before, snapshot(pipe, values=how == "model")) == []
        kinds = {p.device.type for name in self.networks for p in getattr(pipe, name).parameters()}
        assert kinds == {"cpu" if how == "model" else "meta"}

    # ---- prompts and sentences ----------------------------------------------------------------------------------

    def test_prompts_may_be_lists(self):
        prior = self.make()
        whole, negative = prior.encode_prompt(PROMPTS, "grey")
        single, _ = prior.encode_prompt(PROMPTS[1], "grey")
        _, negatives = prior.encode_prompt(PROMPTS, ["grey"] * VIEWS)
        for row, of_one, half, same in zip(
            *(self.texts(prior, c) for c in (whole, single, negative, negatives)), strict=True
        ):
            assert len(row) == len(half) == VIEWS and len(of_one) == 1 and not row.requires_grad
            assert relative(row[1:2], of_one) < 1e-5 and torch.equal(half, same)
            assert relative(row[0], row[1]) > 1e-3 < relative(half[0], row[0])
        with pytest.raises(TypeError, match="prompt must be a string or a list of strings") as caught:
            prior.encode_prompt(3)
        sentence(caught)
        with pytest.raises(ValueError, match="negative_prompt must be one or 3 strings, got 2") as caught:
            prior.encode_prompt(PROMPTS, ["a", "b"])
        sentence(caught)

    def texts(self, prior, conditions):
        """The rows that depend on the prompt."""
        rows = fs.Conditions.of(conditions, prior.condition_name).rows
        return [rows[name] for name in ("text", "pooled") if name in rows]

    def test_conditions_that_lack_a_name_or_have_one_too_many_get_one_sentence(self):
        pipe = self.make_pipe()
        prior, calls = self.make_prior(pipe), []
        handles = [getattr(pipe, name).register_forward_pre_hook(lambda *_: calls.append(1)) for name in self.networks]
        cond = fs.Conditions.of(self.conditions(prior)[0], prior.condition_name)
        wrong = [None, fs.Conditions({"image": torch.ones(1, 2)}), cond.updated(image=torch.ones(1, 2))]
        wrong += [rest for rest in map(cond.without, self.names) if rest is not None]
        for given in wrong:
            with pytest.raises(ValueError) as caught:
                self.sampled(prior, fs.Independent(), cond=given, uncond=None)
            assert "cond" in sentence(caught) and ": pass" in sentence(caught)
        assert not calls
        for handle in handles:
            handle.remove()

    def test_windows_are_pairs_of_sides(self):
        pipe = self.make_pipe()
        scale = self.make_prior(pipe).scale
        window = (self.sides[0] * scale, self.sides[1] * scale)
        assert self.make_prior(pipe, window=window).view_shape[1:] == self.sides
        for window, error in {(0, 8): ValueError, (8, -2): ValueError, 8: TypeError, (8.0, 8): TypeError}.items():
            with pytest.raises(error, match="window") as caught:
                self.make_prior(pipe, window=window)
            sentence(caught)


def fail(*_):
    raise KeyboardInterrupt


def snapshot(pipe, values=True):
    """Everything of a pipeline that its owner could miss: name -> value, tensors copied."""
    found = {}
    for name, part in pipe.components.items():
        found[f"{name}: object"] = id(part)
        if not isinstance(part, torch.nn.Module):
            if hasattr(part, "config"):
                found |= {f"{name}.{key}: setting": copied(value) for key, value in vars(part).items()}
            continue
        for key, tensor in [*part.named_parameters(), *part.named_buffers()]:
            place = f"{name}.{key}"
            found[f"{place}: requires_grad"] = tensor.requires_grad
            found[f"{place}: dtype and device"] = (tensor.dtype, tensor.device)
            found[f"{place}: strides"] = tensor.stride()
            found[f"{place}: grad"] = copied(tensor.grad)
            if values:
                found[f"{place}: value"] = copied(tensor.detach())
        for key, module in part.named_modules():
            place = f"{name}.{key}"
            found[f"{place}: training"] = module.training
            found[f"{place}: compiled"] = id(module._compiled_call_impl)
            found[f"{place}: hooks"] = (list(module._forward_hooks), list(module._forward_pre_hooks))
            found[f"{place}: forward"] = id(vars(module).get("forward"))
            found[f"{place}: processor"] = id(getattr(module, "processor", None))
            hook = getattr(module, "_hf_hook", None)
            found[f"{place}: offload"] = (id(hook), id(getattr(hook, "prev_module_hook", None)))
    return found


def copied(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def differences(before, after):
    """Where two snapshots differ."""

    def same(a, b):
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return a is b or bool(a == b)

    names = before.keys() | after.keys()
    return sorted(n for n in names if n not in before or n not in after or not same(before[n], after[n]))
