"""What training and inference are given, checked: network, device, features, labels, batches.

Imports torch; `mbflow.graph` imports this module only where it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mbflow import _native
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.models import GraphNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mbflow.graph.graph import Graph

__all__ = [
    "check_batches",
    "check_features",
    "check_labels",
    "check_network",
    "check_nodes",
    "device_of",
    "digest",
    "identity",
    "refuse_not_finite",
]

_CHUNK_BYTES = 1 << 26


def device_of(device: str) -> torch.device:
    """The torch device of that name; `"auto"` is the first CUDA device, else the CPU.

    Raises:
        InvalidArgumentError: There is no such device here.

    Example:
        >>> from mbflow.graph.training_data import device_of
        >>> device_of("cpu")
        device(type='cpu')
    """
    there = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InvalidArgumentError(
            f"expected the device auto, cpu, cuda or cuda:N, found {device!r}"
        ) from None
    if found.type == "cuda" and not there:
        raise InvalidArgumentError(
            f"the device {device!r} is not there: torch {torch.__version__} sees no CUDA device; "
            "use auto or cpu"
        )
    return found


def check_network(model: Any) -> None:
    """Refuse what is no graph network.

    Raises:
        InvalidArgumentError: It is none.

    Example:
        >>> from mbflow.graph.models import GCN
        >>> from mbflow.graph.training_data import check_network
        >>> check_network(GCN(3, 2))
    """
    if not isinstance(model, GraphNetwork):
        raise InvalidArgumentError(
            f"model: expected a GraphNetwork, such as mbflow.graph.models.GCN, got "
            f"{type(model).__name__}"
        )


def _array(name: str, given: Any, expected: str) -> Any:
    """Arrays as they are, also memory-mapped ones; anything else as a NumPy array."""
    if isinstance(given, np.ndarray):
        return given
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise InvalidArgumentError(f"{name}: expected {expected}: {text}") from None


def check_features(model: GraphNetwork, graph: Graph, features: Any) -> NDArray[Any]:
    """The features as an array, checked against the graph and the network.

    Args:
        model: The network.
        graph: The graph.
        features: An array of numbers of shape (nodes, columns), or what NumPy makes one of; an
            array is not read.

    Returns:
        The array.

    Raises:
        InvalidArgumentError: It is no matrix of real numbers.
        DataError: It has not a row for each node, or not the columns that the network takes.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.models import GCN
        >>> from mbflow.graph.training_data import check_features
        >>> check_features(GCN(3, 2), Graph.from_edges([1], [0]), np.eye(2, 3)).shape
        (2, 3)
    """
    expected = "numbers of shape (nodes, columns)"
    found = _array("features", features, expected)
    if found.dtype.kind not in "fiub":
        hint = ""
        if found.dtype == object:
            hint = "; of a column of lists, give np.stack(column.to_list())"
        raise InvalidArgumentError(f"features: expected {expected}, got {found.dtype}{hint}")
    if found.ndim != 2:
        raise InvalidArgumentError(f"features: expected {expected}, got shape {found.shape}")
    if len(found) != graph.nodes:
        raise DataError(
            f"features have {len(found)} rows and the graph {graph.nodes} nodes; give a row for "
            "each node"
        )
    wanted = getattr(model.convolutions[0], "in_features", None)
    if wanted is not None and found.shape[1] != wanted:
        raise DataError(
            f"features have {found.shape[1]} columns and the network takes {wanted}; make the "
            "network with as many"
        )
    matrix: NDArray[Any] = found
    return matrix


def check_labels(graph: Graph, labels: Any) -> NDArray[np.int64]:
    """The class codes of all nodes.

    Args:
        graph: The graph.
        labels: Whole numbers of shape (nodes,).

    Returns:
        int64 of shape (nodes,).

    Raises:
        InvalidArgumentError: They are no whole numbers of one dimension.
        DataError: There is not one for each node.

    Example:
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.training_data import check_labels
        >>> check_labels(Graph.from_edges([1], [0]), [1, 0])
        array([1, 0])
    """
    expected = "class codes, whole numbers of shape (nodes,), -1 where the class is not known"
    found = _array("labels", labels, expected)
    if found.dtype.kind not in "iub":
        raise InvalidArgumentError(f"labels: expected {expected}; got {found.dtype}")
    if found.ndim != 1:
        raise InvalidArgumentError(f"labels: expected {expected}; got shape {found.shape}")
    if len(found) != graph.nodes:
        raise DataError(
            f"there are {len(found)} labels and the graph has {graph.nodes} nodes; give one for "
            "each node"
        )
    codes: NDArray[np.int64] = found.astype(np.int64, copy=False)
    return codes


def check_nodes(graph: Graph, given: Any, name: str) -> NDArray[np.int64]:
    """Node ids, from ids or from a mask.

    Args:
        graph: The graph.
        given: Whole numbers from 0 to nodes - 1, or truth values of shape (nodes,).
        name: Of the argument, for messages.

    Returns:
        int64 of shape (ids,).

    Raises:
        InvalidArgumentError: They are neither, or an id is no node.

    Example:
        >>> from mbflow.graph import Graph
        >>> from mbflow.graph.training_data import check_nodes
        >>> graph = Graph.from_edges([1], [0])
        >>> check_nodes(graph, [1], "validation"), check_nodes(graph, [False, True], "validation")
        (array([1]), array([1]))
    """
    expected = "node ids, or a mask of all nodes"
    found = _array(name, given, expected)
    if found.ndim != 1:
        raise InvalidArgumentError(f"{name}: expected {expected}, got shape {found.shape}")
    if found.dtype.kind == "b":
        if len(found) != graph.nodes:
            raise InvalidArgumentError(
                f"{name}: a mask of {len(found)} truth values, and the graph has {graph.nodes} "
                "nodes; expected one for each"
            )
        return np.flatnonzero(found)
    if len(found) == 0:
        return np.empty(0, np.int64)
    if found.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name}: expected {expected}, got {found.dtype}")
    wrong = (found < 0) | (found >= graph.nodes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InvalidArgumentError(
            f"{name}: entry {at} is node {found[at]}; expected 0 to {graph.nodes - 1}"
        )
    return np.array(found, np.int64)


def check_batches(graph: Graph, batches: Any) -> None:
    """Refuse what gives no batches, and batches of another graph.

    Raises:
        InvalidArgumentError: As said.

    Example:
        >>> from mbflow.graph import Batches, Graph
        >>> from mbflow.graph.training_data import check_batches
        >>> graph = Graph.from_edges([1], [0])
        >>> check_batches(graph, Batches(graph, [0], 1))
    """
    if not all(callable(getattr(batches, name, None)) for name in ("steps", "epoch")):
        raise InvalidArgumentError(
            "batches: expected mbflow.graph.Batches or mbflow.graph.train.WholeGraph, got "
            f"{type(batches).__name__}"
        )
    neighbours = getattr(batches, "neighbours", None)
    other = getattr(batches, "graph", None) if neighbours is None else neighbours.graph
    if other is None or other is graph:
        return
    if not hasattr(other, "offsets"):
        raise InvalidArgumentError(
            "batches: they sample a graph of several kinds of nodes; a network needs one of one "
            "kind"
        )
    same = (other.nodes, other.edges) == (graph.nodes, graph.edges) and all(
        np.array_equal(one, two) for one, two in zip(_pieces(other), _pieces(graph), strict=True)
    )
    if not same:
        raise InvalidArgumentError(
            f"batches: they are of another graph, of {other.nodes} nodes and {other.edges} edges, "
            f"than `graph`, of {graph.nodes} nodes and {graph.edges} edges; give the same to both"
        )


def _chunks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    row = max(1, values[:1].nbytes)
    step = max(1, _CHUNK_BYTES // row)
    for start in range(0, len(values), step):
        yield values[start : start + step]


def _pieces(graph: Graph) -> Iterator[NDArray[Any]]:
    yield from _chunks(graph.offsets)
    yield from _chunks(graph.sources)


def digest(*arrays: NDArray[Any]) -> str:
    """A digest of arrays, read in chunks: of their types, shapes and values.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.training_data import digest
        >>> digest(np.arange(3)) == digest(np.arange(3)), len(digest(np.arange(4)))
        (True, 32)
    """
    parts = []
    for array in arrays:
        parts.append(f"{array.dtype.str} {array.shape}")
        parts += [_native.xxh3_128(one.tobytes()) for one in _chunks(array)]
    return _native.xxh3_128(" ".join(parts).encode())


def identity(
    graph: Graph,
    batches: Any,
    *,
    features: NDArray[Any],
    labels: NDArray[np.int64],
    validation: NDArray[np.int64] | None,
) -> Mapping[str, Any]:
    """What a training depends on besides its schedule and network, as a checkpoint keeps it.

    Args:
        graph: The graph.
        batches: The batches; of those without a `fingerprint` only how many there are is known.
        features: Of all nodes; they are read once.
        labels: Of all nodes.
        validation: Node ids.

    Returns:
        Plain values by name.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Batches, Graph
        >>> from mbflow.graph.training_data import identity
        >>> graph, x, y = Graph.from_edges([1], [0]), np.eye(2), np.array([0, 1])
        >>> batches = Batches(graph, [0], 1)
        >>> found = identity(graph, batches, features=x, labels=y, validation=None)
        >>> found["nodes"], found["batches.batch_size"], found["validation"]
        (2, 1, None)
    """
    tell = getattr(batches, "fingerprint", None)
    told = tell() if callable(tell) else {"steps": batches.steps(0)}
    return {
        **{f"batches.{name}": value for name, value in told.items()},
        "nodes": graph.nodes,
        "edges": graph.edges,
        "graph": digest(graph.offsets, graph.sources),
        "features": digest(features),
        "labels": digest(labels),
        "validation": None if validation is None else digest(validation),
    }


def refuse_not_finite(features: NDArray[Any], nodes: NDArray[np.int64] | None = None) -> None:
    """Name the first feature that is NaN or infinite, if there is one.

    Args:
        features: Of shape (rows, columns), read in chunks.
        nodes: The node of each row; default: the rows' numbers.

    Raises:
        DataError: There is one.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.training_data import refuse_not_finite
        >>> refuse_not_finite(np.eye(2))
    """
    done = 0
    for chunk in _chunks(features):
        wrong = ~np.isfinite(chunk)
        if wrong.any():
            row, column = (int(at[0]) for at in np.nonzero(wrong))
            node = done + row if nodes is None else int(nodes[done + row])
            raise DataError(
                f"features: node {node} has {chunk[row, column]} in column {column}; expected "
                "finite numbers"
            )
        done += len(chunk)
