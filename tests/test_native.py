"""How the native module behaves: panics, threads, forks, Ctrl-C; what it says of itself."""

from __future__ import annotations

import ast
import doctest
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mbflow
from mbflow import _native
from mbflow.errors import DataError, DefectError
from native_data import mixture


@pytest.fixture
def threads():
    before = _native.num_threads()
    yield _native.set_num_threads
    _native.set_num_threads(before)


def test_a_panic_becomes_a_defect_error_and_prints_nothing(capfd, threads):
    for count in (1, 3):
        threads(count)
        with pytest.raises(
            DefectError, match=r"a kernel failed at .*\.rs:\d+: boom; this is a defect of mbflow"
        ):
            _native._panic("boom")
    assert capfd.readouterr().err == ""
    assert len(_native.neighbour_graph(mixture(3000, 3, 2), bucket_cap=50)[0]) == 3001


def test_python_threads_run_during_a_kernel():
    features = mixture(60_000, 24, 1)
    done = threading.Event()
    ticks = 0

    def kernel():
        try:
            _native.neighbour_graph(features, probes=40)
        finally:
            done.set()

    thread = threading.Thread(target=kernel)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 5


def test_two_python_threads_may_enter_at_once():
    features = mixture(5000, 8, 5)
    expected = _native.neighbour_graph(features, bucket_cap=64)[1].tobytes()
    results: list[bytes] = []

    def kernel():
        results.append(_native.neighbour_graph(features, bucket_cap=64)[1].tobytes())

    workers = [threading.Thread(target=kernel) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [expected] * 4


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")  # newer Pythons warn that this process has threads: that is the point
import numpy as np
from mbflow import _native
_native.set_num_threads(4)
features = np.random.default_rng(0).normal(size=(20000, 8)).astype("float32")
before = _native.neighbour_graph(features, probes=2)[1].tobytes()
child = os.fork()
if child == 0:
    after = _native.neighbour_graph(features, probes=2)[1].tobytes()
    os._exit(0 if after == before else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_works_inline():
    finished = subprocess.run([sys.executable, "-c", FORK], timeout=120, check=False)
    assert finished.returncode == 0


INTERRUPT = """
import numpy as np
from mbflow import _native
_native.set_num_threads(2)
features = np.random.default_rng(0).normal(size=(400_000, 64)).astype("float32")
print("ready", flush=True)
try:
    while True:
        _native.neighbour_graph(features, probes=4000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    print(len(_native.neighbour_graph(features[:100])[0]), flush=True)
"""


def test_ctrl_c_ends_a_kernel():
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # by then the kernel, which would take minutes, has started
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("interrupted\n101\n", "")


def test_the_environment_sets_the_number_of_threads():
    code = "from mbflow import _native; print(_native.num_threads())"
    for text, expected in (("3", "3"), ("0", None), ("many", None)):
        environment = {**os.environ, "MBFLOW_NUM_THREADS": text}
        finished = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(finished.stdout) >= 1
        assert expected is None or finished.stdout.strip() == expected


# What it says of itself


def test_build_info():
    info = mbflow.build_info()
    assert info == _native.build_info()
    assert info["version"] == mbflow.__version__ == _native.__version__
    assert info["profile"] in ("release", "debug")
    assert info["features"] in ("avx512", "avx2", "baseline")
    assert info["threads"] == _native.num_threads()


def test_the_version_is_that_of_the_workspace():
    manifest = (Path(__file__).parents[1] / "Cargo.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{mbflow.__version__}"\n' in manifest


STUBS = {
    _native: Path(mbflow.__file__).with_name("_native") / "__init__.pyi",
    _native.attention: Path(mbflow.__file__).with_name("_native") / "attention.pyi",
    _native.csc: Path(mbflow.__file__).with_name("_native") / "csc.pyi",
    _native.durations: Path(mbflow.__file__).with_name("_native") / "durations.pyi",
    _native.gather: Path(mbflow.__file__).with_name("_native") / "gather.pyi",
    _native.sampling: Path(mbflow.__file__).with_name("_native") / "sampling.pyi",
}


def stub_functions(stub: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    hidden = {"type_check_only"}
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not any(isinstance(d, ast.Name) and d.id in hidden for d in node.decorator_list)
    ]


def test_every_module_has_a_stub():
    assert set(STUBS.values()) == set(STUBS[_native].parent.glob("*.pyi"))


@pytest.mark.parametrize("module", STUBS, ids=lambda module: module.__name__)
def test_every_function_is_in_the_stub(module):
    native = {name for name in dir(module) if callable(getattr(module, name))}
    assert native
    assert {function.name for function in stub_functions(STUBS[module])} == native
    assert all(getattr(module, name).__doc__ for name in native)
    assert all(getattr(module, name).__module__ == module.__name__ for name in native)


@pytest.mark.parametrize(
    ("stub", "function"),
    [(stub, function) for stub in STUBS.values() for function in stub_functions(stub)],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_function_has_an_example_that_runs(stub, function):
    text = ast.get_docstring(function)
    assert text is not None
    example = doctest.DocTestParser().get_doctest(
        text, {}, function.name, str(stub), function.lineno
    )
    assert example.examples
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.DocTestRunner(optionflags=flags).run(example)
    assert attempted > 0
    assert failed == 0


def test_names_load_when_they_are_used():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mbflow.nothing
    assert {"select", "flow", "select_instances"} <= set(dir(mbflow))
    assert mbflow.errors.DataError is DataError
