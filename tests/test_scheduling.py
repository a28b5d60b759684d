import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsync import scheduling


@st.composite
def graphs(draw):
    """A random DAG: a work order, and for each view some of the views that come before it."""
    n = draw(st.integers(1, 8))
    order = draw(st.permutations(range(n)))
    sources = [()] * n
    for position, view in enumerate(order):
        if position:
            sources[view] = tuple(draw(st.sets(st.sampled_from(order[:position]), max_size=3)))
    return order, sources


def longest_chain(view, sources):
    return max((1 + longest_chain(j, sources) for j in sources[view]), default=0)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 6), st.sampled_from(scheduling.ORDERS), st.none() | st.integers(1, 4))
def test_plan_respects_dependences_and_covers_everything_once(graph, steps, order, max_batch):
    views, sources = graph
    level = scheduling.levels(sources, views)
    assert level == [longest_chain(i, sources) for i in range(len(views))]
    done = set()
    for batch in scheduling.plan(order, views, level, steps, max_batch):
        assert 1 <= len(batch) <= (max_batch or len(views))
        assert len(set(batch)) == len(batch)
        for view, step in batch:
            assert (view, step) not in done
            # Everything it reads was finished by an EARLIER batch.
            assert step == 0 or (view, step - 1) in done
            assert all((j, step) in done for j in sources[view])
        done.update(batch)
    assert done == {(i, k) for i in views for k in range(steps)}


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(1, 6), st.sampled_from(scheduling.ORDERS), st.none() | st.integers(1, 4), st.booleans())
def test_lifetimes_are_enough_and_not_too_much(graph, steps, order, max_batch, keep):
    views, sources = graph
    level = scheduling.levels(sources, views)
    lives = scheduling.lifetimes(order, sources, level, keep)
    slots = {(i, 0): 0 for i in views}  # (view, slot): the step whose state it holds
    done = [0] * steps
    for batch in scheduling.plan(order, views, level, steps, max_batch):
        for view, step in batch:
            for j in (view, *sources[view]):
                assert slots[j, step % lives[j]] == step
        for view, step in batch:
            slots[view, (step + 1) % lives[view]] = step + 1
            done[step] += 1
        for step in {step for _, step in batch}:
            if keep and done[step] == len(views):
                assert all(slots[i, (step + 1) % lives[i]] == step + 1 for i in views)
    assert all(slots[i, steps % lives[i]] == steps for i in views)
    assert max(lives) <= 2 + (max(level) if order == "wavefront" else 0)


@settings(max_examples=40, deadline=None)
@given(graphs(), st.integers(1, 6))
def test_number_of_batches(graph, steps):
    views, sources = graph
    level = scheduling.levels(sources, views)
    depth = max(level) + 1

    def count(order):
        return len(list(scheduling.plan(order, views, level, steps)))

    assert count("wavefront") == steps + depth - 1
    assert count("batched") == steps * depth
    assert count("sequential") == steps * len(views)


def test_a_chain_of_three_views():
    plan = list(scheduling.plan("wavefront", [0, 1, 2], [0, 1, 2], 2))
    assert plan == [[(0, 0)], [(0, 1), (1, 0)], [(1, 1), (2, 0)], [(2, 1)]]
    plan = list(scheduling.plan("sequential", [2, 0, 1], [1, 2, 0], 2))
    assert plan == [[(2, 0)], [(0, 0)], [(1, 0)], [(2, 1)], [(0, 1)], [(1, 1)]]


@pytest.mark.parametrize(("max_batch", "sizes"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (1, [1] * 5)])
def test_max_batch_splits(max_batch, sizes):
    plan = list(scheduling.plan("batched", range(5), [0] * 5, 1, max_batch))
    assert [len(b) for b in plan] == sizes
    assert [item for b in plan for item in b] == [(i, 0) for i in range(5)]


@given(st.lists(st.integers(0, 12), max_size=60), st.sampled_from([0.0, 0.05, 0.2]))
def test_buckets_are_the_fewest_that_waste_little(batches, waste):
    sizes = scheduling.bucket_sizes(batches, waste)
    real = [size for size in batches if size]
    assert sizes == sorted(set(sizes)) and set(sizes) <= set(real)

    def padding(buckets):
        return sum(min(b for b in buckets if b >= size) - size for size in real)

    if not real:
        assert sizes == []
        return
    assert padding(sizes) <= waste * sum(real)
    for fewer in itertools.combinations(sorted(set(real)), len(sizes) - 1):
        if fewer and fewer[-1] == max(real):
            assert padding(fewer) > waste * sum(real)


def test_buckets_of_a_wavefront():
    """Ramps of 1 to 8 views before and after 43 fronts of 8: few shapes, little waste."""
    plan = [len(batch) for batch in scheduling.plan("wavefront", range(8), list(range(8)), 50)]
    sizes = scheduling.bucket_sizes(plan)
    assert len(sizes) <= 3 and sizes[-1] == 8
