"""Memory of attention that is used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from mbflow.edge_attention import EdgeGraph, GraphAttention  # noqa: E402
from mbflow.edge_attention.memory import Spares  # noqa: E402


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 900), st.sampled_from([torch.float32, torch.float64])),
            st.integers(0, 20),
        ),
        max_size=40,
    )
)
def test_tensors_that_live_share_no_memory_and_no_more_is_held_than_was_in_use(steps):
    spares = Spares()
    living: list[tuple[float, torch.Tensor]] = []
    most = 0
    for number, step in enumerate(steps):
        if isinstance(step, int):
            if living:
                living.pop(step % len(living))
            continue
        rows, dtype = step
        tensor = spares.empty(dtype, rows, 700).fill_(number)
        living.append((float(number), tensor))
        large = [held for _, held in living if held.nbytes >= 1 << 20]
        assert all(held.data_ptr() % 64 == 0 for held in large)
        # A buffer is at most twice as large as what it is used for.
        most = max(most, sum(2 * (held.nbytes + 64) for held in large))
        kept = sum(spare.nbytes for spare in spares._spares)
        assert kept + sum(held.nbytes for held in large) <= most
    for number, tensor in living:
        assert bool((tensor == number).all())


def test_memory_is_used_again_and_taken_up_by_what_fits():
    spares = Spares()
    tensor = spares.empty(torch.float32, 1 << 20)
    where = tensor.data_ptr()
    view = tensor[5:9]
    del tensor
    other = spares.empty(torch.float32, 1 << 20)
    assert other.data_ptr() != where, "a view still reads it"
    del view
    assert spares.empty(torch.float64, 1 << 19).data_ptr() == where
    small = spares.empty(torch.float32, 100)
    assert small.shape == (100,)


def test_while_another_thread_takes_memory_nobody_waits():
    spares = Spares()
    with spares._lock:
        tensors: list[torch.Tensor] = []
        thread = threading.Thread(
            target=lambda: tensors.append(spares.empty(torch.float32, 1 << 20))
        )
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert tensors[0].shape == (1 << 20,)


def _graph(nodes: int, edges: int) -> EdgeGraph:
    rng = np.random.default_rng(3)
    counts = np.bincount(rng.integers(0, nodes, edges), minlength=nodes)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return EdgeGraph(offsets, rng.integers(0, nodes, edges), rows=nodes)


def test_used_memory_changes_no_result_and_no_output_that_is_held():
    torch.manual_seed(0)
    graph = _graph(6000, 30_000)
    layer = GraphAttention(20, 16, heads=4, activation="elu")
    features = torch.randn(6000, 20, requires_grad=True)

    def step(edges: EdgeGraph):
        features.grad = None
        layer.zero_grad()
        out = layer(features, edges)
        (out * out).sum().backward()
        gradients = [features.grad, *(parameter.grad for parameter in layer.parameters())]
        return out.detach(), [gradient.clone() for gradient in gradients]

    first, gradients = step(graph)
    copy = first.clone()
    held = sum(spare.nbytes for spare in graph.spares._spares)
    for _ in range(3):
        again, same = step(graph)
        assert torch.equal(again, copy)
        assert all(torch.equal(*pair) for pair in zip(gradients, same, strict=True))
    assert torch.equal(first, copy)
    assert held < 1 << 28
    fresh, others = step(_graph(6000, 30_000))
    assert torch.equal(fresh, copy)
    assert all(torch.equal(*pair) for pair in zip(gradients, others, strict=True))
