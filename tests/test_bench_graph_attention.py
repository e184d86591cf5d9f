"""The measurement of GAT epochs: all backends learn the same; what is absent is skipped by name."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from mbflow.bench.graph_attention import Epochs, gat_epochs, ratios
from mbflow.errors import InvalidArgumentError


@pytest.mark.slow
def test_all_backends_have_the_same_losses() -> None:
    told = []
    results = gat_epochs(
        nodes=200, edges=900, repeats=2, threads=[1], on_progress=lambda *a: told.append(a)
    )
    assert [result.backend for result in results] == ["native", "torch", "dgl", "pyg"]
    done = [result for result in results if not result.skipped]
    assert {"native", "torch"} <= {result.backend for result in done}
    assert all("is not installed" in r.skipped for r in results if r.skipped)
    for result in done:
        assert len(result.seconds) == len(result.losses) == 2
        assert result.losses == pytest.approx(done[0].losses, abs=1e-4)
        assert 0 < result.before_bytes <= result.peak_bytes
    assert set(ratios(results)) == {r.backend for r in done} - {"native"}
    assert told[0] == ("native, 1 threads", 1, 2)


def test_bad_arguments() -> None:
    for options, message in (({"nodes": 0}, "nodes is 0"), ({"backends": ["x"]}, "backend 'x'")):
        with pytest.raises(InvalidArgumentError, match=message):
            gat_epochs(**options)
    assert ratios([Epochs("dgl", 1, (1.0,))]) == {}
