"""Edges of buckets, and what a batch may cost, against slow and obvious ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbflow.errors import DataError, InvalidArgumentError
from mbflow.speech import Budget, DurationBatches, Edges, bucket_edges


def padded(lengths, edges):
    """What all lengths are padded to, by looking for the first edge of each."""
    return sum(min(edge for edge in edges if edge >= length) for length in lengths)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=25), st.integers(1, 6))
def test_optimal_edges_are_the_best_of_all(lengths, buckets):
    seconds = np.array(lengths, np.float32)
    found = bucket_edges(seconds, buckets=buckets).seconds.tolist()
    values = sorted(set(lengths))
    best = min(
        padded(lengths, [*chosen, values[-1]])
        for chosen in itertools.combinations(values[:-1], min(buckets, len(values)) - 1)
    )
    assert len(found) <= buckets
    assert padded(lengths, found) == best


@given(st.lists(st.floats(0.125, 40, width=32), min_size=1, max_size=60), st.integers(1, 9))
def test_every_kind_of_edges_holds_every_item(lengths, buckets):
    seconds = np.array(lengths, np.float32)
    for edges in ("optimal", "equal_count", "equal_duration"):
        for step in (None, 0.5):
            found = bucket_edges(seconds, buckets=buckets, edges=edges, step=step)
            assert 1 <= len(found) <= buckets
            assert np.all(np.diff(found.seconds) > 0)
            bucket = found.assign(seconds, None)
            for length, at in zip(seconds.astype(float), bucket, strict=True):
                assert length <= found.seconds[at]
                assert at == 0 or length > found.seconds[at - 1]
            if step is not None:
                np.testing.assert_allclose(found.seconds / step, np.round(found.seconds / step))


def test_equal_shares_are_equal():
    seconds = np.random.default_rng(0).uniform(1, 20, 10_000).astype(np.float32)
    counts = np.bincount(
        bucket_edges(seconds, buckets=8, edges="equal_count").assign(seconds, None)
    )
    assert counts.tolist() == [1250] * 8
    bucket = bucket_edges(seconds, buckets=8, edges="equal_duration").assign(seconds, None)
    totals = np.bincount(bucket, seconds)
    np.testing.assert_allclose(totals, totals.mean(), rtol=0.01)


def test_edges_of_very_many_lengths_are_as_good():
    """More different lengths than are tried as edges: what is lost is far below a percent."""
    seconds = np.random.default_rng(0).gamma(4, 2, 60_000).astype(np.float32)
    found = bucket_edges(seconds, buckets=10)
    cost = found.seconds[found.assign(seconds, None)].sum()
    # Lengths to a hundredth of a second are few enough to try all; each is rounded up.
    rounded = (np.ceil(seconds.astype(np.float64) * 100) / 100).astype(np.float32)
    exact = bucket_edges(rounded, buckets=10)
    assert cost <= exact.seconds[exact.assign(rounded, None)].sum() * 1.0005


def shapes(count=3000):
    random = np.random.default_rng(1)
    seconds = np.clip(np.exp(random.normal(np.log(6.5), 0.75, count)), 0.5, 40)
    tokens = np.maximum(1, seconds * 5 * np.exp(random.normal(0, 0.3, count))).astype(np.uint32)
    return seconds.astype(np.float32), tokens


def shares(edges, seconds, tokens):
    """Padded shares of seconds and tokens, each item padded to the corner of its bucket."""
    bucket = edges.assign(seconds, tokens)
    assert (bucket < len(edges)).all()
    assert (tokens <= edges.tokens[bucket]).all()
    assert (seconds <= edges.seconds[bucket]).all()
    padded_seconds = edges.seconds[bucket].sum()
    most = np.full(len(edges), 0.0)
    np.maximum.at(most, bucket, tokens)
    padded_tokens = np.minimum(edges.tokens, most)[bucket].sum()
    return 1 - seconds.sum() / padded_seconds, 1 - tokens.sum() / padded_tokens


def test_shapes_by_seconds_and_tokens_pad_both_little():
    seconds, tokens = shapes()
    joint = bucket_edges(seconds, tokens, buckets=(30, 5))
    assert len(joint) <= 150
    nested = bucket_edges(seconds, tokens, buckets=(30, 5), edges="equal_duration")
    assert len(nested) <= 150
    plain = bucket_edges(seconds, buckets=30)
    padding = {
        name: shares(edges, seconds, tokens)
        for name, edges in (("joint", joint), ("nested", nested), ("plain", plain))
    }
    assert sum(padding["joint"]) < sum(padding["nested"]) < sum(padding["plain"])
    assert padding["joint"][1] < 0.08


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(2, 4),
    st.sampled_from(["optimal", "equal_count", "equal_duration"]),
)
def test_items_go_to_the_first_shape_that_holds_them(pairs, first, second, kind):
    seconds = np.array([s for s, _ in pairs], np.float32)
    tokens = np.array([t for _, t in pairs], np.uint32)
    edges = bucket_edges(seconds, tokens, buckets=(first, second), edges=kind)
    assert len(edges) <= first * second
    bucket = edges.assign(seconds, tokens)
    for s, t, at in zip(seconds, tokens, bucket, strict=True):
        fitting = [
            place
            for place in range(len(edges))
            if s <= edges.seconds[place] and t <= edges.tokens[place]
        ]
        assert fitting[0] == at


def test_given_edges_are_taken_and_sorted():
    edges = bucket_edges(np.array([1.0], np.float32), edges=[9.0, 3.0])
    assert edges.seconds.tolist() == [3.0, 9.0]
    assert np.isinf(edges.tokens).all()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "at least one"),
        (["a"], "expected 'optimal'"),
        ([1.0, float("nan")], "not above 0 and finite"),
        ([float("inf")], "not above 0 and finite"),
        ([(1.0, -2)], "not above 0 and finite"),
        ([1.0, 1.0], "there twice"),
        (7, "expected 'optimal'"),
    ],
)
def test_edges_that_are_none_are_refused(edges, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Edges.of(edges)


@st.composite
def budgets(draw):
    kind = draw(st.sampled_from(["seconds", "quadratic", "tokens", "items", "memory"]))
    most = draw(st.floats(1, 500))
    if kind == "seconds":
        return Budget.padded_seconds(most), lambda b, t, u: b * t <= most
    if kind == "quadratic":
        q = draw(st.floats(1, 40))
        return (
            Budget.padded_seconds(most, quadratic=q),
            lambda b, t, u: b * (t + t * t / q) <= most * (1 + 1e-12),
        )
    if kind == "tokens":
        return Budget.padded_tokens(most), lambda b, t, u: b * u <= most
    if kind == "items":
        count = draw(st.integers(1, 60))
        return Budget.items(count), lambda b, t, u: b <= count
    names = ["item", "seconds", "seconds_squared", "tokens", "tokens_squared", "product"]
    numbers = {name: draw(st.floats(0.01, 2)) for name in names}
    fixed = draw(st.floats(0, 20))

    def within(b, t, u):
        terms = (1, t, t * t, u, u * u, t * u)
        cost = sum(n * x for n, x in zip(numbers.values(), terms, strict=True))
        return fixed + b * cost <= most * (1 + 1e-12)

    return Budget.memory(most, fixed=fixed, **numbers), within


@settings(max_examples=200)
@given(budgets(), budgets(), st.floats(0.1, 40), st.integers(0, 60), st.integers(1, 8))
def test_sizes_are_the_most_that_every_limit_allows(one, other, seconds, tokens, multiple):
    for budget, *limits in ([one[0], one[1]], [one[0] & other[0], one[1], other[1]]):
        size = int(budget.sizes([seconds], [tokens])[0])
        if size > 10**6:
            assert tokens == 0
            continue
        assert (
            all(within(size * (1 - 1e-6 * (size == 1)), seconds, tokens) for within in limits)
            or size == 0
        )
        more = (size + 1) * (1 + 1e-9)
        assert not all(within(more, seconds, tokens) for within in limits)
        rounded = int(budget.multiple_of(multiple).sizes([seconds], [tokens])[0])
        assert rounded == (size if size < multiple else size - size % multiple)


HUGE = 10**400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget.padded_seconds(0), "most is 0"),
        (lambda: Budget.padded_seconds(float("nan")), "most is nan"),
        (lambda: Budget.padded_seconds("600"), "most is '600'"),
        (lambda: Budget.padded_seconds(10, quadratic=0), "quadratic is 0"),
        (lambda: Budget.padded_tokens(-1), "most is -1"),
        (lambda: Budget.items(1.5), "most is 1.5"),
        (lambda: Budget.memory(5.0), "an item takes nothing"),
        (lambda: Budget.memory(5.0, seconds=-1.0), "seconds is -1.0"),
        (lambda: Budget.sizes_by_bucket({}), "the table is empty"),
        (lambda: Budget.sizes_by_bucket({5.0: 0}), "size at 5.0 is 0"),
        (lambda: Budget.sizes_by_bucket({-5.0: 1}), "edge -5.0"),
        (lambda: Budget.items(5).multiple_of(0), "multiple is 0"),
        (lambda: Budget.items(5) & Budget.sizes_by_bucket({5.0: 1}), "cannot be joined"),
        (lambda: Budget.items(5).sizes([1.0], [1, 2]), "does not fit"),
        (lambda: Budget.items(5).sizes("abc"), "seconds: expected numbers"),
        (lambda: Budget.items(5).sizes({}), "seconds: expected numbers"),
        (lambda: Budget.items(5).sizes([1j]), "seconds: expected numbers"),
        (lambda: Budget.items(5).sizes([None]), "seconds: expected numbers"),
        (lambda: Budget.items(5).sizes([[1], [1, 2]]), "seconds: expected numbers"),
        (lambda: Budget.items(5).sizes([1.0], "a"), "tokens: expected numbers"),
        (lambda: Budget.padded_seconds(HUGE), "most is 1000"),
        (lambda: Budget.padded_seconds(1, quadratic=HUGE), "quadratic is 1000"),
        (lambda: Budget.padded_seconds(1, quadratic=5e-324), "too small to divide by"),
        (lambda: Budget.padded_tokens(HUGE), "most is 1000"),
        (lambda: Budget.items(HUGE), "most is 1000"),
        (lambda: Budget.memory(HUGE, item=1.0), "most is 1000"),
        (lambda: Budget.memory(1.0, product=HUGE), "product is 1000"),
        (lambda: Budget.sizes_by_bucket({HUGE: 1}), "edge 1000"),
        (lambda: Budget.sizes_by_bucket({(5, HUGE): 1}), "tokens of .* is 1000"),
        (lambda: Budget.sizes_by_bucket({1e39: 1}), "too long for single precision"),
        (lambda: Budget.sizes_by_bucket({40.0: 2**63}), "size at 40.0 is 9223372036854775808"),
        (lambda: Budget.sizes_by_bucket(None), "the table is None"),
        (lambda: Budget.sizes_by_bucket([1, 2]), "the table is"),
        (lambda: Budget.sizes_by_bucket(5), "the table is 5"),
        (lambda: Budget.sizes_by_bucket("ab"), "the table is 'ab'"),
        (lambda: Budget.sizes_by_bucket({(5,): 3}), r"edge \(5,\): expected seconds, or a pair"),
        (lambda: Budget.sizes_by_bucket({(5, 3, 4): 2}), "expected seconds, or a pair"),
        (lambda: Budget.sizes_by_bucket({0.7: 3, 0.7 + 1e-9: 2}), "edge 0.7.* twice"),
        (lambda: Budget.sizes_by_bucket([((5, 3), 3), ((5, 3), 2)]), "twice"),
        (lambda: Budget.items(5).multiple_of(2**70), "multiple is 1180591620717411303424"),
        (
            lambda: Budget.items(5).multiple_of(2**61) & Budget.items(5).multiple_of(3),
            "multiples of 2305843009213693952 and of 3",
        ),
        (lambda: Budget(()), "0 limits and a table of 0 rows"),
        (lambda: Budget(Budget.items(5).limits, table=((1.0, 5.0, 3),)), "expected one of the two"),
        (lambda: Budget(None), "limits: None"),
        (lambda: Budget(((1.0, 2.0),)), "tuples of 8 numbers"),
        (lambda: Budget((("a",) * 8,)), "coefficient of a limit is 'a'"),
        (lambda: Budget(((0.0,) * 7 + (1.0,),)), "an item takes nothing"),
        (lambda: Budget(((1.0,) * 7 + (0.0,),)), "what a limit allows is 0.0"),
        (lambda: Budget((), table=((1.0, 2),)), "tuples of 3 numbers"),
        (lambda: Budget((), table=((1.0, 2.0, 1.5),)), "size at .* is 1.5"),
        (lambda: Budget(Budget.items(5).limits, multiple=0), "multiple is 0"),
    ],
)
def test_budgets_that_are_none_are_refused(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_an_item_as_long_as_the_limit_is_within_it():
    """Lengths are held in single precision, rounded up: 16.1 becomes 16.1000004."""
    for longest in (16.1, 0.7, 7.2, 40.0):
        plan = DurationBatches([longest] * 3, budget=longest)
        assert [len(batch) for batch in plan.epoch(0)] == [1, 1, 1]
        plan = DurationBatches([longest] * 3, budget=3 * longest + 1e-5, edges=[longest])
        assert [len(batch) for batch in plan.epoch(0)] == [3]
        table = Budget.sizes_by_bucket({longest: 2})
        assert sorted(len(b) for b in DurationBatches([longest] * 3, budget=table).epoch(0)) == [
            1,
            2,
        ]
    with pytest.raises(DataError, match="above the budget alone"):
        DurationBatches([16.1002], budget=16.1)


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=50), st.floats(21, 100))
def test_padded_seconds_are_within_the_budget_to_the_last_bit(seconds, most):
    for order in ("buckets", "window"):
        for batch in DurationBatches(seconds, budget=most, buckets=3, order=order).epoch(0):
            assert len(batch) * max(seconds[item] for item in batch) <= most


def test_a_table_of_sizes_is_read_as_it_is_written():
    table = Budget.sizes_by_bucket([[[5.0, 20], 30], [[5.0, 40], 20], [[9.0, 40], 10]])
    sizes = table.sizes([4.0, 4.0, 4.0, 6.0, 6.0, 10.0], [10, 30, 50, 10, 41, 1])
    assert sizes.tolist() == [30, 20, 0, 10, 0, 0]


def test_edges_that_single_precision_cannot_tell_apart_are_refused():
    with pytest.raises(InvalidArgumentError, match="there twice, in single precision"):
        DurationBatches([40.0] * 10, edges=[5.00000001, 5.00000002, 40.0], budget=100.0)


def test_steps_of_edges_are_the_grid_of_the_lengths():
    found = DurationBatches([0.3, 0.6, 0.7, 1.1], budget=10.0, edge_step=0.1)
    assert found.edges.seconds == pytest.approx([0.3, 0.6, 0.7, 1.1], rel=1e-6)
    for step in (0.1, 0.01, 0.25):
        grid = np.arange(1, 400) * step
        edges = bucket_edges(grid.astype(np.float32), buckets=400, step=step).seconds
        np.testing.assert_allclose(edges, grid, rtol=1e-6)


def test_budgets_too_large_to_count_are_no_endless_loop():
    """Above 2^53 a float less one is the same float."""
    most, seconds = 1.437887593650572e19, 10.420433044433594
    size = int(Budget.padded_seconds(most).sizes([seconds])[0])
    assert 0.999 * most / seconds < size <= most / seconds
    assert Budget.padded_seconds(1e300).sizes([1e-30])[0] > 10**15
    with pytest.raises(InvalidArgumentError, match="counts tokens"):
        DurationBatches([10.0] * 1000, budget=Budget.padded_tokens(100))
    with pytest.raises(InvalidArgumentError, match="rate_sigmas"):
        DurationBatches([10.0] * 10, rate_sigmas=4.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": np.ones(2)}, "weights: 2 for 3 items"),
        ({"weights": np.zeros(3)}, "weights: expected"),
        ({"weights": [1, 1, 1]}, "weights: expected a NumPy array"),
        ({"tokens": np.ones(2, np.uint32)}, "tokens: 2 for 3 items"),
        ({"step": "a"}, "step is 'a'"),
        ({"step": True}, "step is True"),
        ({"step": 1e-300}, "step is 1e-300"),
    ],
)
def test_columns_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        bucket_edges(np.ones(3, np.float32), **options)


def test_the_largest_sizes_and_multiples_do_not_overflow():
    most = 2**62
    assert Budget.sizes_by_bucket({40.0: most}).sizes([1.0]).tolist() == [most]
    assert Budget.items(most).multiple_of(most).sizes([1.0]).tolist() == [most]
    assert Budget.items(5).multiple_of(most).sizes([1.0]).tolist() == [5]


def test_a_budget_says_whether_tokens_count():
    for budget in (
        Budget.padded_tokens(100),
        Budget.memory(5.0, seconds=1.0, tokens=1.0),
        Budget.memory(5.0, tokens_squared=1.0),
        Budget.memory(5.0, product=1.0),
        Budget.items(5) & Budget.padded_tokens(9),
        Budget.sizes_by_bucket([((5.0, 20), 3), (9.0, 1)]),
    ):
        assert budget.needs_tokens
    for budget in (
        Budget.padded_seconds(100, quadratic=20),
        Budget.items(5).multiple_of(4),
        Budget.memory(5.0, fixed=1.0, item=1.0, seconds=1.0, seconds_squared=1.0),
        Budget.sizes_by_bucket({5.0: 3}),
    ):
        assert not budget.needs_tokens
