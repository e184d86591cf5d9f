"""DGL 1.1.3, the last release that runs beside a current torch: the one place that imports it.

DGL is no longer maintained. Version 2 imports beside torch 2.2 alone; 1.1.3 needs a few precautions
at its import, after which its graphs, blocks, samplers and layers work.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib import import_module, util
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mbflow.errors import ResourceError, require
from mbflow.training import without_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_dgl"]

_BACKEND = "DGLBACKEND"


def load_dgl(*, purpose: str) -> Any:
    """Import DGL.

    While it is imported, `DGLBACKEND` says pytorch, since DGL otherwise writes that choice into the
    home directory, and `setuptools.extern`, which setuptools no longer has, stands for `packaging`.

    Args:
        purpose: What it is needed for, as it stands after "... is needed for".

    Returns:
        The module `dgl`.

    Raises:
        MissingExtraError: DGL, torch or `packaging` is not installed.
        ResourceError: DGL is installed and does not import, as version 2 does beside most releases
            of torch.

    Example:
        >>> from mbflow.dgl_compat import load_dgl
        >>> load_dgl(purpose="blocks").__version__  # doctest: +SKIP
        '1.1.3'
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    torch: Any = require("torch", extra="train", purpose=purpose)
    require("packaging.version", extra="dgl", purpose=purpose)
    packaging: ModuleType = sys.modules["packaging"]
    if util.find_spec("dgl") is None:
        require("dgl", extra="dgl", purpose=purpose)
    before = set(sys.modules)
    with without_warnings(), _torch_backend(), _extern(packaging):
        try:
            return import_module("dgl")
        except (ImportError, OSError, AttributeError) as error:
            for name in set(sys.modules) - before:
                if name.partition(".")[0] == "dgl":  # so that a second try says the same
                    del sys.modules[name]
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ResourceError(
                f"DGL is installed and does not import beside torch {torch.__version__}: "
                f"{reason[:200]}; the release that does is 1.1.3: pip install 'dgl==1.1.3'"
            ) from error


@contextmanager
def _torch_backend() -> Iterator[None]:
    given = os.environ.get(_BACKEND)
    os.environ[_BACKEND] = "pytorch"
    try:
        yield
    finally:
        if given is None:
            del os.environ[_BACKEND]
        else:
            os.environ[_BACKEND] = given


@contextmanager
def _extern(packaging: ModuleType) -> Iterator[None]:
    """Let `setuptools.extern.packaging` be `packaging`, without importing setuptools."""
    extern = ModuleType("setuptools.extern")
    extern.packaging = packaging  # type: ignore[attr-defined]
    added = {"setuptools.extern": extern, "setuptools.extern.packaging": packaging}
    added = {name: module for name, module in added.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
