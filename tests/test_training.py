"""Fixed threading and best weights."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from mbflow.training import BestWeights, ordered_tasks, single_threaded, without_warnings

torch = pytest.importorskip("torch", reason="needs the extra `train`")


def blas_threads():
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_libraries_are_held_and_given_back():
    before = blas_threads()
    assert before
    with single_threaded():
        assert torch.get_num_threads() == 1
        assert set(blas_threads()) == {1}
        with single_threaded():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    assert blas_threads() == before


@pytest.mark.usefixtures("three_threads")
def test_given_back_after_an_error():
    with pytest.raises(KeyError), single_threaded():
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_threads_may_leave_in_any_order():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first():
        with single_threaded():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second():
        first_in.wait(10)
        with single_threaded():
            second_in.set()
            first_out.wait(10)
            seen.append(torch.get_num_threads())
            seen.append(set(blas_threads()))

    threads = [threading.Thread(target=task) for task in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == [1, {1}]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ordered_tasks_keep_order_and_raise(threads):
    with ordered_tasks(threads) as run:
        assert run(lambda a, b: a * b, range(50), range(50)) == [i * i for i in range(50)]
        with pytest.raises(ZeroDivisionError):
            run(lambda a: 1 / a, [1, 0, 1])


def test_best_weights_are_a_copy():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    best = BestWeights([weight])
    for epoch, loss in enumerate([0.9, 0.4, 0.7, float("nan")]):
        with torch.no_grad():
            weight.fill_(epoch)
        best.offer(epoch, loss)
    assert (best.epoch, best.loss) == (1, 0.4)
    best.restore()
    assert weight.tolist() == [1.0, 1.0]
    with torch.no_grad():
        weight.add_(5)
    best.restore()
    assert weight.tolist() == [1.0, 1.0]


def test_nothing_to_restore():
    weight = torch.tensor([1.0])
    best = BestWeights([weight])
    assert not best.offer(0, float("nan"))
    assert best.epoch == -1
    best.restore()
    assert weight.tolist() == [1.0]


def test_warnings_of_threads_side_by_side_are_held_back_and_come_again() -> None:
    inside = threading.Barrier(2, timeout=20)

    def work(number: int) -> None:
        with without_warnings():
            inside.wait()
            warnings.warn(f"in {number}", stacklevel=1)
            inside.wait()
            if number == 1:
                time.sleep(0.05)
            # The other has left by now, and this one is still inside.
            warnings.warn(f"late in {number}", stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, range(2)))
        assert seen == []
        assert list(warnings.filters) == before
        warnings.warn("heard", stacklevel=1)
    assert [str(one.message) for one in seen] == ["heard"]
