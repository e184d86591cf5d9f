# ruff: noqa: PYI021  -- the stub is the reference manual: users and editors read its docstrings
"""The kernels of graph attention over ragged edges, see `mbflow.edge_attention`.

What `mbflow._native` says of its functions goes for these, too. Arrays must be contiguous; those of
numbers are all float32 or all float64, and are read and written where they are.
"""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["EdgeGraph", "dropout_factors", "project", "row_layout"]

def row_layout(heads: int, width: int) -> tuple[int, int, int, int]:
    """Where the parts of a node's row stand: all that an edge needs of its source.

    Args:
        heads: Heads, 1 to 4096.
        width: Values of a head, 1 to 2^20.

    Returns:
        Columns from one head to the next; the column of the first logit (as source, then as
        target); columns of a row; columns of what the backward pass gathers of a target.

    Raises:
        InvalidArgumentError: A number is out of range.

    Example:
        >>> from mbflow._native import attention
        >>> attention.row_layout(4, 16)
        (16, 64, 80, 80)
    """

def project(features: NDArray[Any], weights: NDArray[Any], columns: int, out: NDArray[Any]) -> None:
    """Write features times weights: the same bits for any number of threads.

    Args:
        features: `[rows, width]`.
        weights: `[width, columns]`.
        columns: Columns of the weights.
        out: `[rows, columns]`, is overwritten.

    Raises:
        InvalidArgumentError: Sizes or types do not fit.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import attention
        >>> out = np.empty((2, 1))
        >>> attention.project(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[10.0], [1.0]]), 1, out)
        >>> out.tolist()
        [[12.0], [34.0]]
    """

def dropout_factors(share: float, key: int, edges: int, heads: int) -> NDArray[np.float64]:
    """What dropout multiplies coefficients with, `[edges * heads]`: 0 or 1 / (1 - share).

    Args:
        share: Share that is dropped, 0 up to below 1, to the nearest 1/65536.
        key: Key of the draws.
        edges: Edges.
        heads: Heads.

    Raises:
        InvalidArgumentError: The share is out of range.

    Example:
        >>> from mbflow._native import attention
        >>> attention.dropout_factors(0.5, 3, 2, 2).tolist()
        [0.0, 2.0, 0.0, 0.0]
    """

@final
class EdgeGraph:
    """A ragged graph that attention runs over; see `mbflow.edge_attention.EdgeGraph`.

    Holds its arrays, which must not be changed. The transposed edges are worked out by the first
    backward pass and kept.

    Args:
        offsets: `uint64 [targets + 1]`.
        sources: `uint32` or `uint64 [edges]`.
        rows: Rows that sources and targets are among.
        first: Row of the first target.
        targets: `uint32 [targets]`, the row of each, where they do not follow each other.

    Raises:
        InvalidArgumentError: Offsets do not go from 0 up to the number of edges, or a source or
            target is not a row.

    Example:
        >>> import numpy as np
        >>> from mbflow._native import attention
        >>> offsets, sources = np.array([0, 1], np.uint64), np.array([1], np.uint32)
        >>> attention.EdgeGraph(offsets, sources, 2).edges
        1
    """

    def __new__(
        cls,
        offsets: NDArray[np.uint64],
        sources: NDArray[np.uint32] | NDArray[np.uint64],
        rows: int,
        *,
        first: int = 0,
        targets: NDArray[np.uint32] | None = None,
    ) -> EdgeGraph: ...
    @property
    def targets(self) -> int:
        """The number of targets."""

    @property
    def edges(self) -> int:
        """The number of edges."""

    @property
    def rows(self) -> int:
        """Rows that sources and targets are among."""

    def attend(
        self,
        rows: NDArray[Any],
        heads: int,
        width: int,
        *,
        slope: float,
        dropout: float,
        key: int,
        factors: NDArray[np.float32] | None,
        bias: NDArray[Any] | None,
        activation: str,
        out: NDArray[Any],
        sums: NDArray[Any] | None,
        kept: tuple[NDArray[Any], NDArray[Any]] | None,
    ) -> None:
        """The forward pass: writes `out [targets, heads * width]`.

        Args:
            rows: `[rows, stride]`, see `row_layout`.
            heads: Heads.
            width: Values of a head.
            slope: Of the leaky rectifier.
            dropout: Share of coefficients that is dropped.
            key: Key of its draws.
            factors: `[edges, heads]`, dropout drawn elsewhere.
            bias: `[heads * width]`.
            activation: What comes after the bias.
            out: Is overwritten.
            sums: Overwritten with what `out` is before bias and activation.
            kept: Two arrays that the backward pass needs, `[targets, heads * width]` and `[targets,
                3 * heads]`, overwritten.

        Raises:
            InvalidArgumentError: Sizes or types do not fit.
        """

    def backward(
        self,
        rows: NDArray[Any],
        heads: int,
        width: int,
        *,
        slope: float,
        dropout: float,
        key: int,
        factors: NDArray[np.float32] | None,
        bias: NDArray[Any] | None,
        activation: str,
        features: NDArray[Any],
        weights: NDArray[Any],
        sums: NDArray[Any],
        kept: tuple[NDArray[Any], NDArray[Any]],
        gradient: NDArray[Any],
        to_features: NDArray[Any] | None,
        to_weights: NDArray[Any],
        to_bias: NDArray[Any] | None,
        passed: NDArray[Any],
    ) -> None:
        """The backward pass: from the gradient of the output to those of features and weights.

        Args:
            rows: As in the forward pass, like all up to `activation`.
            heads: Heads.
            width: Values of a head.
            slope: Of the leaky rectifier.
            dropout: Share of coefficients that is dropped.
            key: Key of its draws.
            factors: `[edges, heads]`, dropout drawn elsewhere.
            bias: `[heads * width]`.
            activation: What comes after the bias.
            features: What `rows` were made of, `[rows, in]`.
            weights: And these, `[in, stride]`.
            sums: What the forward pass wrote, or its output where there was no bias or activation.
            kept: What it wrote.
            gradient: Of its output.
            to_features: Overwritten with the gradient of the features, where it is wanted.
            to_weights: Overwritten with that of the weights.
            to_bias: Overwritten with that of the bias, where there is one.
            passed: Room for `[targets, last number of row_layout]`, is overwritten.

        Raises:
            InvalidArgumentError: Sizes or types do not fit.
        """

    def coefficients(
        self, rows: NDArray[Any], heads: int, width: int, *, slope: float, out: NDArray[Any]
    ) -> None:
        """Write the coefficients, without dropout: `out [edges, heads]`.

        Args:
            rows: `[rows, stride]`, see `row_layout`.
            heads: Heads.
            width: Values of a head.
            slope: Of the leaky rectifier.
            out: Is overwritten.

        Raises:
            InvalidArgumentError: Sizes or types do not fit.
        """
