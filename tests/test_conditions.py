"""Conditions with names: validated, gathered, split and padded as one tensor is."""

import pytest
import torch
from exact_priors import Counting, ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync.conditions import Conditions, check_alike, check_views, joined
from fastsync.sampling_checks import checked_conditions, state_dtype

SHAPE = (2, 4, 6)
VIEWS = 4
CANVAS = fs.WideCanvas((4, 18), (4, 6), 4)


def sampled(eps_fn, cond, uncond=None, method=None, **settings):
    prior = fs.FunctionPrior(eps_fn, ddim(steps_offset=1), SHAPE, dtype=torch.float64)
    return fs.sample(
        prior, CANVAS, method or fs.SyncVC(iterations=2), cond=cond, uncond=uncond, num_inference_steps=4,
        generator=torch.Generator().manual_seed(0), **settings,
    )  # fmt: skip


def of_two(x, t, cond):
    return nonlinear(x, t, cond["text"] + cond["control"].flatten(1).sum(1).reshape(-1, 1, 1, 1))


SETTINGS = [
    {},
    {"order": "sequential"},
    {"max_batch": 2},
    {"max_batch": 3, "fixed_batches": True},
    {"method": fs.SyncVC(iterations=2, guidance_gradient="cond")},
    {"method": fs.MultiDiffusion(), "max_batch": 3, "fixed_batches": True},
    {"method": fs.StochSync(steps=3)},
]


def assert_same(one, two):
    """The numbers, and what they cost."""
    assert relative(two.views, one.views) < 1e-12
    assert vars(two.stats) | {"seconds": 0, "peak_memory": 0} == vars(one.stats) | {"seconds": 0, "peak_memory": 0}


# ---- in a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s)) or "plain")
def test_a_mapping_is_what_its_members_make_of_it(settings, guided):
    text, control = 0.5 * randn(VIEWS, *SHAPE, seed=1), 0.1 * randn(VIEWS, 3, seed=2)
    text_uncond = 0.5 * randn(1, *SHAPE, seed=3)
    total = control.sum(1).reshape(-1, 1, 1, 1)
    one = sampled(nonlinear, text + total, text_uncond + total if guided else None, **settings)
    cond, uncond = {"text": text, "control": control}, {"text": text_uncond, "control": control}
    two = sampled(of_two, cond, uncond if guided else None, **settings)
    assert_same(one, two)
    named = [Conditions(c) for c in (cond, uncond)]
    assert_same(two, sampled(of_two, named[0], named[1] if guided else None, **settings))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s)) or "plain")
def test_lists_of_rows_and_shared_values_are_what_tensors_make_of_them(settings):
    text, text_uncond = 0.5 * randn(VIEWS, *SHAPE, seed=1), 0.5 * randn(1, *SHAPE, seed=3)

    def of_rows(x, t, cond):
        assert isinstance(cond["rows"], list) and cond.shared == {"scale": 0.5, "table": table}
        rows = torch.stack([row[: len(row) // 2] for row in cond["rows"]])  # each as long as it likes
        return nonlinear(x, t, cond["scale"] * rows + table["shift"])

    table = {"shift": 0.1}
    one = sampled(nonlinear, 0.5 * text + 0.1, 0.5 * text_uncond + 0.1, **settings)
    lists = [
        Conditions({"rows": [torch.cat([row] * 2) for row in rows]}, {"scale": 0.5, "table": table})
        for rows in (text, text_uncond)
    ]
    assert_same(one, sampled(of_rows, *lists, **settings))


def test_the_function_gets_the_names_with_both_halves_in_a_batch():
    counting = Counting(of_two)
    text, control = 0.5 * randn(1, *SHAPE), 0.1 * randn(VIEWS, 3)
    sampled(counting, {"text": text, "control": control}, {"text": -text, "control": control}, method=fs.Independent())
    _, seen = counting.seen[0]
    assert isinstance(seen, Conditions) and {k: tuple(v.shape) for k, v in seen.items()} == {
        "text": (8, *SHAPE), "control": (8, 3)
    }  # fmt: skip
    assert torch.equal(seen["text"][:4], -text.expand(4, -1, -1, -1))
    assert torch.equal(seen["control"], torch.cat([control] * 2))


def test_a_bare_tensor_stays_one():
    counting = Counting(nonlinear)
    text = 0.5 * randn(VIEWS, *SHAPE)
    out = sampled(counting, text, method=fs.Independent())
    assert isinstance(counting.seen[0][1], torch.Tensor)
    named = sampled(lambda x, t, c: nonlinear(x, t, c["text"]), {"text": text}, method=fs.Independent())
    assert_same(out, named)


def test_values_that_both_halves_share_stay_shared_and_are_moved_once():
    text, other, control = torch.zeros(1, 2), torch.ones(1, 2), torch.ones(2, 3)
    prior = fs.FunctionPrior(of_two, ddim(), SHAPE)
    for made in (lambda: control.clone(), lambda: control.double()):
        shared = made()
        canvas = fs.WideCanvas((4, 10), (4, 6), 4)
        given = {"text": text, "control": shared}, {"text": other, "control": shared}
        cond, uncond = checked_conditions(prior, canvas, *given, fs.Guidance(2.0))
        assert cond["control"] is uncond["control"] and cond["text"] is not uncond["text"]
    with torch.inference_mode():
        made = {"text": torch.zeros(1, 2), "control": torch.ones(2, 3)}
        other = {"text": torch.ones(1, 2), "control": made["control"]}
        cond, uncond = checked_conditions(prior, canvas, made, other, fs.Guidance(2.0))
    assert not cond["control"].is_inference() and cond["control"] is uncond["control"]
    assert not cond["text"].any() and bool(uncond["text"].all())
    assert checked_conditions(prior, canvas, made, other, fs.Guidance(1.0))[1] is None


def test_precision_is_that_of_the_finest_value():
    prior = fs.FunctionPrior(of_two, ddim(), SHAPE)
    whole, fine = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    for kind in (dict, Conditions):
        assert state_dtype(prior, kind({"a": whole, "b": fine}), None, None) == torch.float64
        assert state_dtype(prior, kind({"a": whole, "b": [whole, fine]}), None, None) == torch.float64
        assert state_dtype(prior, kind({"a": whole, "b": whole}), None, None) == torch.float32
    assert (
        state_dtype(prior, fine, None, None) == torch.float64 and state_dtype(prior, whole, None, None) == torch.float32
    )
    assert sampled(of_two, {"text": randn(1, *SHAPE), "control": randn(1, 3)}).views.dtype == torch.float64
    single = fs.FunctionPrior(lambda x, t, c: c["text"].to(x.dtype) * x, ddim(), SHAPE)
    for text, dtype in ((fine.reshape(1, 1, 1, 1), torch.float64), (whole.reshape(1, 1, 1, 1), torch.float32)):
        out = fs.sample(single, CANVAS, fs.Independent(), cond={"text": text}, num_inference_steps=1)
        assert out.views.dtype == dtype


# ---- the object -------------------------------------------------------------------------------------------------


@pytest.fixture
def conditions():
    """Four views: a row each, one for all, a list, and something shared."""
    rows = {"each": torch.arange(8.0).reshape(4, 2), "one": torch.full((1, 3), 7.0)}
    lists = {"list": [torch.full((n + 1,), float(n)) for n in range(4)], "single": [torch.zeros(5)]}
    return Conditions({**rows, **lists}, {"ids": torch.zeros(6, 3), "name": "grid"})


def test_it_is_a_mapping_of_names(conditions):
    assert list(conditions) == ["each", "one", "list", "single", "ids", "name"] and len(conditions) == 6
    assert conditions["name"] == "grid" and conditions["one"].shape == (1, 3) and "each" in conditions
    assert dict(conditions) == {**conditions.rows, **conditions.shared}
    assert repr(conditions) == (
        "Conditions(each: shape [4, 2], one: shape [1, 3], list: a list of 4, single: a list of 1, ids: shared, "
        "name: shared)"
    )
    with pytest.raises(KeyError):
        conditions["none"]


def test_rows_are_selected_and_expanded_without_a_copy(conditions):
    picked = conditions.select([2, 0, 2])
    assert picked["each"].tolist() == [[4, 5], [0, 1], [4, 5]]
    assert picked["one"].shape == (3, 3) and picked["one"].data_ptr() == conditions["one"].data_ptr()
    assert [len(row) for row in picked["list"]] == [3, 1, 3] and len(picked["single"]) == 3
    assert picked["list"][0] is conditions["list"][2] and picked["single"][2] is conditions["single"][0]
    assert picked["ids"] is conditions["ids"] and picked["name"] == "grid"
    again = picked.select([1, 2])
    assert again["each"].tolist() == [[0, 1], [4, 5]] and [len(row) for row in again["list"]] == [1, 3]


def test_the_last_row_fills_a_batch(conditions):
    batch = conditions.select([0, 3])
    filled = batch.filled(2)
    assert filled["each"].tolist() == [[0, 1], [6, 7], [6, 7], [6, 7]] and filled["one"].shape == (4, 3)
    assert [len(row) for row in filled["list"]] == [1, 4, 4, 4] and filled.shared == batch.shared
    assert batch.filled(0) is batch


def test_halves_are_joined_row_by_row(conditions):
    first, second = conditions.select([0, 1]), conditions.select([2, 3])
    both = joined(first, second)
    assert both["each"].tolist() == conditions["each"].tolist() and both["one"].shape == (4, 3)
    assert [len(row) for row in both["list"]] == [1, 2, 3, 4] and both["ids"] is conditions["ids"]
    assert list(both) == list(conditions)


def test_nothing_is_changed_in_place(conditions):
    before = dict(conditions)
    doubled = conditions.map(lambda tensor: 2 * tensor)
    assert doubled["each"].tolist() == (2 * before["each"]).tolist() and doubled["list"][1].tolist() == [2, 2]
    assert doubled["ids"] is before["ids"]
    assert conditions.updated(each=torch.zeros(1), new=torch.ones(2))["new"].tolist() == [1, 1]
    renamed = conditions.renamed("one", "other", torch.zeros(1))
    assert "one" not in renamed and renamed["other"].shape == (1,)
    assert list(conditions.without("each", "name")) == ["one", "list", "single", "ids"]
    assert Conditions({"a": torch.zeros(1)}).without("a") is None
    moved = conditions.to(torch.device("meta"))
    assert {moved["each"].device.type, moved["list"][0].device.type, moved["ids"].device.type} == {"meta"}
    assert conditions.items() == before.items() and all(conditions[name] is value for name, value in before.items())
    source = {"a": torch.zeros(1)}
    copied = Conditions(source)
    source["b"] = torch.zeros(1)
    assert list(copied) == ["a"]


def test_what_may_be_passed():
    tensor = torch.zeros(2, 3)
    assert list(Conditions.of(tensor)) == ["cond"] and Conditions.of(tensor).bare() is tensor
    assert list(Conditions.of(tensor, "text")) == ["text"]
    named = Conditions({"cond": tensor, "more": tensor})
    assert named.bare() is named and Conditions.of(named) is named
    assert list(Conditions.of({"a": tensor}, "text")) == ["a"]
    only_shared = Conditions({}, {"ids": tensor})
    assert only_shared.select([0, 1])["ids"] is tensor and only_shared.bare() is only_shared
    assert Conditions({"cond": [tensor]}).bare() is not tensor


# ---- sentences --------------------------------------------------------------------------------------------------


ones = torch.ones
shared = Conditions({"text": ones(1, 5)}, {"ids": ones(3)})


@pytest.mark.parametrize(
    "cond, uncond, error, words",
    [
        ({"a": ones(1, 5), "b": ones(3, 5)}, None, ValueError, ["cond['b']", "1", "4", "[3, 5]"]),
        (ones(3, 5), None, ValueError, ["cond must hold 1 condition", "4", "[3, 5]"]),
        ({"a": [ones(5), ones(4)]}, None, ValueError, ["cond['a']", "1", "4", "a list of 2"]),
        ({"a": ones(1, 5), "b": "text"}, None, TypeError, ["'b'", "'text'", "shared={...}"]),
        ({"a": [ones(1), "text"]}, None, ValueError, ["cond['a']", "1", "4", "a list of 2"]),
        ({}, None, ValueError, ["at least one value", "pass None"]),
        ({"a": []}, None, ValueError, ["'a'", "a row for each view"]),
        ({"a": torch.tensor(1.0)}, None, ValueError, ["'a'", "a row for each view", "[]"]),
        ({3: ones(1)}, None, TypeError, ["name", "string", "3"]),
        ((ones(1, 5), ones(1, 2)), None, TypeError, ["cond", "Conditions({'text': ..., 'control': ...})"]),
        ([ones(1, 5), ones(1, 5)], None, TypeError, ["cond", "torch.Tensor or fastsync.Conditions"]),
        (ones(1, 5), "grey", TypeError, ["uncond", "str"]),
        ({"a": ones(1, 5), "b": ones(1, 2) / 0}, None, ValueError, ["cond['b']", "infinite"]),
        ({"a": [ones(1) / 0]}, None, ValueError, ["cond['a']", "infinite"]),
        ({"a": ones(1, 5), "b": ones(1, 2)}, ones(1, 5), ValueError, ["same shape", "(a: [5], b: [2])", "[5]"]),
        ({"a": ones(1, 5)}, {"b": ones(1, 5)}, ValueError, ["same names", "(a: [5]) and (b: [5])"]),
        ({"a": ones(1, 5)}, {"a": [ones(5)]}, ValueError, ["(a: [5]) and (a: list)"]),
        ({"a": ones(1, 5), "b": ones(1, 2)}, {"a": ones(1, 5), "b": ones(1, 3)}, ValueError, ["b: [2]", "b: [3]"]),
        (shared, Conditions({"text": ones(1, 5)}, {"ids": ones(2)}), ValueError, ["shared condition 'ids'", "same"]),
        (shared, {"text": ones(1, 5)}, ValueError, ["same names", "ids: shared"]),
        (None, {"a": ones(1, 5)}, ValueError, ["without cond"]),
    ],
)
def test_one_sentence_for_what_is_no_condition(cond, uncond, error, words):
    counting = Counting(of_two)
    with pytest.raises(error) as caught:
        sampled(counting, cond, uncond)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 300 and not counting.calls


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'ids' is given twice, with a row a view and shared: keep one"):
        Conditions({"ids": ones(1)}, {"ids": ones(3)})


def test_shared_values_are_compared_whatever_they_are():
    for value, same, other in ((ones(2), ones(2), ones(3)), ("grid", "grid", "line"), ((1, 2), (1, 2), (1, 3))):
        check_alike(Conditions({}, {"ids": value}), Conditions({}, {"ids": same}))
        with pytest.raises(ValueError, match="the shared condition 'ids'"):
            check_alike(Conditions({}, {"ids": value}), Conditions({}, {"ids": other}))
    check_views("cond", Conditions({"a": [ones(2)] * 3, "b": ones(1, 2)}), 3)


def test_conditions_cannot_be_changed_and_are_equal_to_themselves_alone():
    rows = [ones(2), ones(3)]
    cond = Conditions({"a": rows}, {"ids": ones(3)})
    rows.append(ones(4))
    assert len(cond["a"]) == 2
    for view in (cond.rows, cond.shared):
        with pytest.raises(TypeError):
            view["a"] = ones(1)
    assert cond == cond and cond != Conditions({"a": rows}, {"ids": ones(3)}) and len({cond, cond}) == 1
