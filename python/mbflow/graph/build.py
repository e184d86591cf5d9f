"""Building a graph from an edge list that can be read twice, in pieces.

Example:
    >>> import numpy as np
    >>> from mbflow.graph.build import Recipe, build
    >>> pieces = [(np.array([2, 1]), np.array([0, 0])), (np.array([0]), np.array([2]))]
    >>> build(lambda: iter(pieces), Recipe(), edges=3).sources.tolist()
    [1, 2, 0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mbflow._native import csc
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.graph.graph import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ADDED_TIME",
    "ADDED_TYPE",
    "ADDED_WEIGHT",
    "Attributes",
    "Recipe",
    "build",
    "most_nodes",
    "refuse_infinite",
]

# What a self loop that was added holds: it counts once, and was there before everything else.
ADDED_WEIGHT = 1.0
ADDED_TYPE = 0
ADDED_TIME = -(1 << 63)

_CHOICES = {"duplicates": ("keep", "drop", "count"), "self_loops": ("keep", "drop", "add")}


@dataclass(frozen=True)
class Recipe:
    """Which graph an edge list becomes; the arguments of `Graph.from_edges`.

    Example:
        >>> from mbflow.graph.build import Recipe
        >>> Recipe(nodes=3).source_nodes
        3
    """

    nodes: int | None = None
    source_nodes: int | None = None
    duplicates: Literal["keep", "drop", "count"] = "keep"
    self_loops: Literal["keep", "drop", "add"] = "keep"
    undirected: bool = False
    reverse: bool = False
    keep_rows: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name in ("nodes", "source_nodes"):
            number = getattr(self, name)
            if number is not None and not 0 <= number < 1 << 32:
                raise InvalidArgumentError(f"{name}: expected 0 to 2^32 - 1, got {number}")
        if self.nodes is not None and self.source_nodes is None:
            object.__setattr__(self, "source_nodes", self.nodes)
        if self.nodes != self.source_nodes and (self.undirected or self.self_loops != "keep"):
            name = "undirected" if self.undirected else "self_loops"
            raise InvalidArgumentError(
                f"{name}: sources and targets are different nodes (nodes={self.nodes}, "
                f"source_nodes={self.source_nodes}); expected the same ones"
            )

    @property
    def needs_both(self) -> bool:
        """Whether degrees depend on the sources, too."""
        return self.nodes is None or self.undirected or self.self_loops != "keep"


@dataclass(frozen=True)
class Attributes:
    """What the rows of an edge list hold beside the two ends, each an array or None.

    Example:
        >>> from mbflow.graph.build import Attributes
        >>> Attributes().weights is None
        True
    """

    weights: NDArray[np.float32] | None = None
    types: NDArray[np.uint16] | None = None
    times: NDArray[np.int64] | None = None

    def __bool__(self) -> bool:
        return any(values is not None for values in (self.weights, self.types, self.times))


Piece = tuple["NDArray[Any]", "NDArray[Any]"]
Counted = tuple["NDArray[Any] | None", "NDArray[Any] | None"]


def build(
    pieces: Callable[[], Iterable[Piece]],
    recipe: Recipe,
    *,
    attributes: Callable[[], Attributes] = Attributes,
    has_attributes: bool = False,
    first_pass: Callable[[], Iterable[Counted]] | None = None,
    edges: int,
) -> Graph:
    """Build a graph by a counting sort in two passes.

    Args:
        pieces: Sources and targets of the list, piece by piece, as `id_columns` gives them; called
            for each pass.
        recipe: Which graph it becomes.
        attributes: What else the rows hold; called after both passes.
        has_attributes: Whether it gives any.
        first_pass: What the first pass reads in place of `pieces`; of the two ends, the one that
            edges come from may be None where it needs no others (see `Recipe.needs_both`).
        edges: How many rows the list has.

    Returns:
        The graph.

    Raises:
        DataError: An id is negative or too large; `row` counts from the first piece on.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.build import Recipe, build
        >>> piece = (np.array([0, 1]), np.array([1, 1]))
        >>> build(lambda: [piece], Recipe(self_loops="drop"), edges=2).edges
        1
    """
    rows = has_attributes or recipe.keep_rows
    builder = _builder(recipe, rows=rows, edges=edges)
    try:
        _pass(builder.count, pieces if first_pass is None else first_pass, recipe)
    except DataError:
        if first_pass is not None and not recipe.needs_both:
            # An end that was not looked at may be wrong in a row before.
            _pass(_builder(recipe, rows=False, edges=edges).count, pieces, recipe)
        raise
    _pass(builder.fill, pieces, recipe)
    given = attributes()
    offsets, sources, kept, counted, source_nodes = builder.finish(
        duplicates=recipe.duplicates,
        weights=given.weights if recipe.duplicates == "count" else None,
    )
    refuse_infinite(counted)
    weights, types, times = counted, None, None
    if kept is not None:
        if given.weights is not None and counted is None:
            weights = csc.take(given.weights, kept, ADDED_WEIGHT)
        if given.types is not None:
            types = csc.take(given.types, kept, ADDED_TYPE)
        if given.times is not None:
            times = csc.take(given.times, kept, ADDED_TIME)
    return Graph(
        offsets,
        sources,
        source_nodes,
        weights=weights,
        types=types,
        times=times,
        rows=kept if recipe.keep_rows else None,
    )


def refuse_infinite(sums: NDArray[np.float32] | None) -> None:
    """Refuse sums of weights that float32 does not hold.

    Raises:
        DataError: There is one.

    Example:
        >>> import numpy as np
        >>> from mbflow.graph.build import refuse_infinite
        >>> refuse_infinite(np.ones(2, np.float32))
    """
    if sums is not None and not np.isfinite(sums).all():
        raise DataError(
            'weights: with duplicates="count" those of an edge that stands several times are added '
            "up, and one such sum is above 3.4e38, the largest that float32 holds; scale them down"
        )


def _builder(recipe: Recipe, *, rows: bool, edges: int) -> csc.Builder:
    return csc.Builder(
        recipe.nodes,
        recipe.source_nodes,
        undirected=recipe.undirected,
        self_loops=recipe.self_loops,
        swapped=recipe.reverse,
        rows=rows,
        most=most_nodes(edges),
    )


def most_nodes(edges: int) -> int:
    """How many nodes ids may ask for where nobody says how many there are.

    Eight bytes a node are taken for the largest id: a list of a few edges with ids of many digits
    has sparse ids, and would ask for all memory.

    Example:
        >>> from mbflow.graph.build import most_nodes
        >>> most_nodes(5)
        134217728
    """
    return min((1 << 32) - 1, max(1 << 27, 64 * edges))


def _pass(
    work: Callable[[Any, Any, int], None],
    pieces: Callable[[], Iterable[Counted]],
    recipe: Recipe,
) -> None:
    row = 0
    for sources, targets in pieces():
        if recipe.reverse:
            work(targets, sources, row)
        else:
            work(sources, targets, row)
        known = targets if sources is None else sources
        row += 0 if known is None else len(known)
