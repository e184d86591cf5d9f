"""The table of nodes beside a graph: features, labels and splits, in the order of the graph.

Example:
    >>> from mbflow.steps.graph_nodes import NodeParameters
    >>> NodeParameters().features
    'features'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from mbflow.errors import DataError
from mbflow.flow.spec import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbflow.flow.source import Source
    from mbflow.graph import Graph

__all__ = [
    "LabelParameters",
    "Labels",
    "NodeParameters",
    "check_columns",
    "check_device",
    "check_split",
    "node_ids",
    "read_features",
    "read_few_labels",
    "read_labels",
    "read_order",
]


def check_device(device: str) -> str:
    """Refuse what is no name of a device, as a validator of parameters.

    Args:
        device: Its name.

    Returns:
        The name.

    Raises:
        ValueError: It is none.

    Example:
        >>> from mbflow.steps.graph_nodes import check_device
        >>> check_device("cuda:1")
        'cuda:1'
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"expected `auto`, `cpu`, `cuda` or `cuda:N`, found `{device}`")
    return device


_LOOKED_AT = 5_000_000  # rows of a table that a forecast reads
_VALIDATION = ("valid", "validation", "val", "dev")


class NodeParameters(Parameters):
    """Which columns of the nodes are read.

    Example:
        >>> from mbflow.steps.graph_nodes import NodeParameters
        >>> NodeParameters(features=["x", "y"]).scale
        'none'
    """

    id: str | None = Field(
        None,
        description="Column of the nodes' ids, as the edges have them; default: `id` where there "
        "is such a column, else a node's row.",
    )
    features: str | list[str] = Field(
        "features", description="A column of lists of numbers, or columns of numbers."
    )
    scale: Literal["none", "row"] = Field(
        "none", description="`row` divides a node's features by the sum of their absolute values."
    )

    @field_validator("features")
    @classmethod
    def _each_once(cls, features: str | list[str]) -> str | list[str]:
        if not features:
            raise ValueError("expected at least one column, found none")
        twice = [name for name in features if features.count(name) > 1]
        if isinstance(features, list) and twice:
            raise ValueError(f"the column `{twice[0]}` is named twice; name each once")
        return features


class LabelParameters(NodeParameters):
    """Which columns of the nodes are read to learn from.

    Example:
        >>> from mbflow.steps.graph_nodes import LabelParameters
        >>> LabelParameters(label="class").train
        'train'
    """

    label: str = Field("label", description="Column of the class; null where it is not known.")
    split: str = Field("split", description="Column that says which nodes are for what.")
    train: str = Field("train", description="The split to learn from.")
    validation: str | None = Field(
        None,
        description="The split that decides which epoch is best; default: the one of `valid`, "
        "`validation`, `val` and `dev` that is there.",
    )
    test: str | None = Field(
        None, description="The split to test on; default: `test` where it is there."
    )

    @model_validator(mode="after")
    def _validation_is_apart(self) -> Self:
        if self.validation == self.train:
            raise ValueError(
                f"`validation` is `{self.train}`, the split to learn from (`train`); name another "
                "split, or leave `validation` out"
            )
        return self


@dataclass(frozen=True, eq=False)
class Labels:
    """Classes and splits of all nodes, in the order of the graph.

    Attributes:
        codes: int64 of shape (nodes,): positions in `classes`, -1 where the class is not known or
            no training node has it.
        classes: The classes of the training nodes, sorted: text, whole numbers or truth values.
        splits: For each split of the table, the ids of its nodes, ascending.
        validation: The name of the split that decides which epoch is best, or None.
        test: The name of the split to test on, or None.
        kind: The type of the classes in the table, or None where Arrow may choose it.

    Example:
        >>> import numpy as np
        >>> from mbflow.steps.graph_nodes import Labels
        >>> Labels(np.array([0, 1]), ("a", "b"), {"train": np.array([0, 1])}, None).classes
        ('a', 'b')
    """

    codes: NDArray[np.int64]
    classes: tuple[Any, ...]
    splits: dict[str, NDArray[np.int64]]
    validation: str | None
    test: str | None = None
    kind: pa.DataType | None = None

    def known(self, split: str) -> NDArray[np.int64]:
        """The nodes of a split whose class is known."""
        nodes = self.splits.get(split, np.empty(0, np.int64))
        return nodes[self.codes[nodes] >= 0]


def _place(source: Source, row: int) -> str:
    """The file of a row that passes `where`, and the row in it."""
    path, inside = source.locate(int(source.positions()[row]))
    return f"{path}: row {inside} (counted from 0)"


def check_columns(source: Source, parameters: NodeParameters) -> None:
    """Refuse, before anything is read, columns that are not there or hold the wrong type.

    Raises:
        DataError: Naming the column and what is there.

    Example:
        >>> from mbflow.steps.graph_nodes import NodeParameters, check_columns
        >>> check_columns(source, NodeParameters(features="x"))  # doctest: +SKIP
    """
    names = _feature_names(parameters)
    wanted = dict.fromkeys(names, "features")
    if parameters.id is not None:
        wanted[parameters.id] = "id"
    if isinstance(parameters, LabelParameters):
        wanted |= {parameters.label: "label", parameters.split: "split"}
    for name, option in wanted.items():
        if name not in source.schema.names:
            raise DataError(
                f"source `{source.name}`: no column `{name}` (`{option}` of the step); it has: "
                f"{', '.join(source.schema.names[:20])}"
            )
    for name in names:
        kind = source.schema.field(name).type
        inner = kind.value_type if _is_list(kind) else kind
        number = pa.types.is_integer(inner) or pa.types.is_floating(inner)
        number = number or pa.types.is_boolean(inner)
        if not number or (len(names) > 1 and _is_list(kind)):
            more = "numbers" if len(names) > 1 else "numbers, or lists of numbers"
            raise DataError(
                f"source `{source.name}`: the column `{name}` (`features`) is {kind}; expected "
                f"{more}"
            )
    if isinstance(parameters, LabelParameters):
        kind = _plain(source.schema.field(parameters.label).type)
        if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)):
            raise DataError(
                f"source `{source.name}`: the column `{parameters.label}` (`label`) is {kind}; "
                "expected classes as text, whole numbers or truth values"
            )
        check_split(source, parameters.split)


def check_split(source: Source, name: str) -> None:
    """Refuse a column of splits that holds no names.

    Raises:
        DataError: Naming the column and its type.

    Example:
        >>> from mbflow.steps.graph_nodes import check_split
        >>> check_split(source, "split")  # doctest: +SKIP
    """
    kind = source.schema.field(name).type
    plain = _plain(kind)
    if not (
        pa.types.is_integer(plain)
        or pa.types.is_boolean(plain)
        or pa.types.is_null(plain)
        or _is_text(plain)
    ):
        raise DataError(
            f"source `{source.name}`: the column `{name}` (`split`) is {kind}; expected names of "
            "splits as text, whole numbers or truth values"
        )


def _feature_names(parameters: NodeParameters) -> list[str]:
    given = parameters.features
    return [given] if isinstance(given, str) else list(given)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _id_column(source: Source, parameters: NodeParameters) -> str | None:
    if parameters.id is not None:
        return parameters.id
    return "id" if "id" in source.schema.names else None


def read_order(source: Source, graph: Graph, parameters: NodeParameters) -> NDArray[np.int64]:
    """The node of each row.

    Args:
        source: The table of nodes.
        graph: The graph, with the names of its nodes where they are not its numbers.
        parameters: Which columns.

    Returns:
        int64 of shape (rows,): each node once.

    Raises:
        DataError: A row is of no node, or a node has none or two.

    Example:
        >>> from mbflow.steps.graph_nodes import NodeParameters, read_order
        >>> read_order(source, graph, NodeParameters())  # doctest: +SKIP
        array([0, 1, 2])
    """
    name = _id_column(source, parameters)
    rows = source.rows()
    if name is None:
        if getattr(graph, "ids", None) is not None:
            raise DataError(
                f"source `{source.name}`: the graph's nodes have names, and no column says which "
                "row is which; name it with `id`"
            )
        nodes = np.arange(rows, dtype=np.int64)
    else:
        nodes = _encoded(source, graph, name)
    if rows == graph.nodes and name is None:
        return nodes
    times = np.bincount(nodes[nodes < graph.nodes], minlength=graph.nodes)
    beyond = np.flatnonzero(nodes >= graph.nodes)
    if len(beyond):
        raise DataError(
            f"{_place(source, int(beyond[0]))} is node {int(nodes[beyond[0]])}, and the graph has "
            f"{graph.nodes} nodes; build the graph with this table of nodes"
        )
    if (times > 1).any():
        row = int(np.flatnonzero(times[nodes] > 1)[1])
        twice = int(np.flatnonzero(nodes == nodes[row])[1])
        raise DataError(f"{_place(source, twice)} is the second row of one node, `{name}` says")
    if (times == 0).any():
        missing = int(np.argmin(times))
        shown = node_ids(graph).take(pa.array([missing]))[0].as_py()
        raise DataError(
            f"source `{source.name}`: no row for node {shown!r}, and {int((times == 0).sum()) - 1} "
            "others; a network needs features of every node"
        )
    return nodes


def node_ids(graph: Graph) -> pa.Array:
    """What the nodes are called: their names, or their numbers.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph import Graph
        >>> from mbflow.steps.graph_nodes import node_ids
        >>> node_ids(Graph(np.zeros(3, np.uint64), np.empty(0, np.uint32), 2)).to_pylist()
        [0, 1]
    """
    ids = getattr(graph, "ids", None)
    return pa.array(np.arange(graph.nodes, dtype=np.int64)) if ids is None else ids.values


def _encoded(source: Source, graph: Graph, name: str) -> NDArray[np.int64]:
    ids = getattr(graph, "ids", None)
    parts = [np.empty(0, np.int64)]
    done = 0
    for batch in source.batches([name]):
        column = batch.column(0)
        if column.null_count:
            row = int(pc.index(pc.is_null(column), value=True).as_py())
            raise DataError(f"{_place(source, done + row)}: the column `{name}` (`id`) is null")
        if ids is not None:
            try:
                part = ids.encode(column, what=f"column `{name}`").astype(np.int64)
            except DataError as error:
                if error.row is None:
                    raise
                raise DataError(f"{_place(source, done + error.row)}: {error}") from None
        elif pa.types.is_integer(column.type):
            part = column.cast(pa.int64()).to_numpy()
            if len(part) and part.min() < 0:
                row = int(np.argmax(part < 0))
                raise DataError(
                    f"{_place(source, done + row)}: the column `{name}` (`id`) is {part[row]}"
                )
        else:
            raise DataError(
                f"source `{source.name}`: the column `{name}` (`id`) is {column.type}, and the "
                "graph's nodes are whole numbers; build the graph with this table of nodes"
            )
        parts.append(part)
        done += batch.num_rows
    return np.concatenate(parts)


def read_features(
    source: Source, order: NDArray[np.int64], parameters: NodeParameters
) -> NDArray[np.float32]:
    """The features of all nodes, in the order of the graph.

    Args:
        source: The table of nodes.
        order: The node of each row.
        parameters: Which columns.

    Returns:
        float32 of shape (nodes, columns).

    Raises:
        DataError: A null, NaN, infinity or list of another length; the message names file and row.

    Example:
        >>> from mbflow.steps.graph_nodes import NodeParameters, read_features
        >>> read_features(source, order, NodeParameters()).shape  # doctest: +SKIP
        (2708, 1433)
    """
    names = _feature_names(parameters)
    result: NDArray[np.float32] | None = None
    done = 0
    for batch in source.batches(names):
        if len(names) == 1 and _is_list(batch.column(0).type):
            values = _lists(source, batch.column(0), done, result, names[0])
        else:
            columns = []
            for name, column in zip(names, batch.columns, strict=True):
                _refuse_nulls(source, column, done, name)
                columns.append(column.cast(pa.float32(), safe=False).to_numpy())
            values = np.stack(columns, axis=1) if columns else np.empty((0, 0))
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            row, column_at = (int(at[0]) for at in np.nonzero(~finite))
            name = names[0] if len(names) == 1 else names[column_at]
            where = f", entry {column_at}" if len(names) == 1 and values.shape[1] > 1 else ""
            raise DataError(
                f"{_place(source, done + row)}: the column `{name}`{where} is "
                f"{values[row, column_at]}; expected a finite number (float32)"
            )
        if parameters.scale == "row":
            sums = np.abs(values).sum(axis=1, keepdims=True, dtype=np.float64)
            values = (values / np.where(sums == 0.0, 1.0, sums)).astype(np.float32)
        if result is None:
            result = np.empty((len(order), values.shape[1]), np.float32)
        result[order[done : done + batch.num_rows]] = values
        done += batch.num_rows
    if result is None or done == 0:
        raise DataError(f"source `{source.name}` has no rows; expected the nodes of the graph")
    return result


def _refuse_nulls(source: Source, column: pa.Array, done: int, name: str) -> None:
    if column.null_count:
        row = int(pc.index(pc.is_null(column), value=True).as_py())
        raise DataError(
            f"{_place(source, done + row)}: the column `{name}` (`features`) is null; fill it or "
            "leave the node out of the graph"
        )


def _lists(
    source: Source, column: Any, done: int, before: NDArray[np.float32] | None, name: str
) -> NDArray[Any]:
    """A column of lists as a matrix; all lists must be as long as the first."""
    _refuse_nulls(source, column, done, name)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if before is None and len(lengths) else 0
    width = width if before is None else before.shape[1]
    wrong = np.flatnonzero(lengths != width)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{_place(source, done + row)}: the column `{name}` has {int(lengths[row])} entries, "
            f"and {width} in the rows before; expected as many in every row"
        )
    if len(lengths) and not width:
        raise DataError(
            f"{_place(source, done)}: the column `{name}` (`features`) has no entries; a network "
            "needs at least one feature of each node"
        )
    values = column.flatten()
    if values.null_count:
        row = int(pc.index(pc.is_null(values), value=True).as_py()) // max(1, width)
        raise DataError(f"{_place(source, done + row)}: a list in the column `{name}` holds null")
    flat = values.cast(pa.float32(), safe=False).to_numpy()
    matrix: NDArray[Any] = flat.reshape(len(lengths), width)
    return matrix


def read_labels(source: Source, order: NDArray[np.int64], parameters: LabelParameters) -> Labels:
    """Classes and splits of all nodes, checked for what training and tests need.

    Args:
        source: The table of nodes.
        order: The node of each row.
        parameters: Which columns, and the names of the splits.

    Returns:
        The labels.

    Raises:
        DataError: No training nodes, a training node without a class, a class of the other splits
            that no training node has, or a split that is named and not there.

    Example:
        >>> from mbflow.steps.graph_nodes import LabelParameters, read_labels
        >>> read_labels(source, order, LabelParameters()).classes  # doctest: +SKIP
        (0, 1, 2, 3, 4, 5, 6)
    """
    table = source.table(list(dict.fromkeys([parameters.label, parameters.split])))
    label, split = (_decoded(table[name]) for name in (parameters.label, parameters.split))
    names = split.cast(pa.large_string())
    found = sorted(name for name in pc.unique(names).to_pylist() if name is not None)
    validation = _named(source, parameters, "validation", found, _VALIDATION)
    test = _named(source, parameters, "test", found, ("test",))
    if parameters.train not in found:
        raise DataError(
            f"source `{source.name}`: no training nodes: the column `{parameters.split}` (`split`) "
            f"is nowhere `{parameters.train}`; it holds: {', '.join(found[:20]) or 'nothing'}; "
            "name the split with `train`"
        )
    in_split = {name: _mask(pc.equal(names, name)) for name in found}
    train = in_split[parameters.train]
    unknown = np.flatnonzero(train & _mask(pc.is_null(label)))
    if len(unknown):
        raise DataError(
            f"{_place(source, int(unknown[0]))}: the column `{parameters.label}` (`label`) is null "
            f"in the split `{parameters.train}`; give it a class, or take it out of the split"
        )
    classes = sorted(pc.unique(label.filter(pa.array(train))).to_pylist())
    codes = pc.index_in(label, value_set=pa.array(classes, label.type))
    codes = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
    strange = (codes < 0) & _mask(pc.is_valid(label))
    for name in (validation, test):
        rows = np.flatnonzero(strange & in_split[name]) if name in in_split else np.empty(0)
        if len(rows):
            row = int(rows[0])
            raise DataError(
                f"{_place(source, row)}: the class {label[row].as_py()!r} is in the split "
                f"`{name}` and in no row of `{parameters.train}`; a network cannot learn it: add "
                "training nodes of that class, or set it to null"
            )
    by_node = np.empty(len(order), np.int64)
    by_node[order] = codes
    splits = {name: np.sort(order[mask]) for name, mask in in_split.items()}
    return Labels(by_node, tuple(classes), splits, validation, test, label.type)


def read_few_labels(
    source: Source, graph: Graph | None, parameters: LabelParameters
) -> Labels | None:
    """The labels of a table that is small enough to be read for a plan, else None.

    Args:
        source: The table of nodes.
        graph: The graph, where it is there; without it a row's node is its number.
        parameters: Which columns.

    Raises:
        DataError: As `read_order` and `read_labels` say.

    Example:
        >>> from mbflow.steps.graph_nodes import LabelParameters, read_few_labels
        >>> read_few_labels(source, None, LabelParameters()).classes  # doctest: +SKIP
        (0, 1, 2, 3, 4, 5, 6)
    """
    if source.num_positions > _LOOKED_AT:
        return None
    if graph is None:
        order = np.arange(source.rows(), dtype=np.int64)
    else:
        order = read_order(source, graph, parameters)
    return read_labels(source, order, parameters)


def _mask(values: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, fill_value=False), dtype=np.bool_)


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of no rows
        array = pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _named(
    source: Source,
    parameters: LabelParameters,
    option: str,
    found: list[str],
    usual: tuple[str, ...],
) -> str | None:
    """The split that an option names, or else the first of the usual ones that is there."""
    given: str | None = getattr(parameters, option)
    if given is None:
        there = (name for name in usual if name in found and name != parameters.train)
        return next(there, None)
    if given not in found:
        raise DataError(
            f"source `{source.name}`: the column `{parameters.split}` (`split`) is nowhere "
            f"`{given}` (`{option}`); it holds: {', '.join(found[:20]) or 'nothing'}"
        )
    return given
