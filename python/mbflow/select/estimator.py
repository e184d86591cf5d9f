"""Instance selection as a scikit-learn estimator; this module alone imports scikit-learn."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.utils import InputTags, Tags, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

from mbflow.arrow import to_frame
from mbflow.errors import DataError, InvalidArgumentError
from mbflow.select.instances import Selection, select_instances
from mbflow.select.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["InstanceSelector"]

_RULES = ("auto", "power", "equal", "proportional", "gain")
_STRATEGIES = ", ".join(map(repr, _RULES))


@dataclass
class _InputTags(InputTags):  # type: ignore[misc]
    dataframe: bool = True


@dataclass
class _SamplerTags:
    sample_indices: bool = True


@dataclass
class _Tags(Tags):  # type: ignore[misc]
    """The tags of scikit-learn with the one that imbalanced-learn adds for its samplers."""

    sampler_tags: _SamplerTags = field(default_factory=_SamplerTags)


class InstanceSelector(OneToOneFeatureMixin, BaseEstimator):  # type: ignore[misc]
    """Keep the rows that are worth training on: `select_instances` as an estimator.

    It has imbalanced-learn's interface of a sampler, so it works in the pipelines of that package:
    there rows are dropped when the pipeline is fitted, and kept when it predicts. What comes back
    is of the type that was given: NumPy arrays with their type, pandas frames with their index and
    types, polars frames, pyarrow tables, lists. Needs scikit-learn 1.6 or later, and not
    imbalanced-learn.

    Frames may hold text, categories and nulls, as for `select_instances`; arrays and lists hold
    numbers, NaN where one is missing.

    Args:
        fraction: Share of the rows to keep, above 0 and at most 1; at least one row of each class
            is kept.
        count: Rows to keep; wins over `fraction`.
        method: How rows are chosen; see `select_instances`.
        graph: Kind of the neighbour graph; see `select_instances`.
        sampling_strategy: How the rows to keep are shared among the classes: what
            `select_instances` calls `quotas`.
        power: With quotas `"power"`, these go with the class size to this power.
        quantiles: None for classes. For a numeric target the number of strata, bounded by its
            quantiles, that take the place of classes.
        settings: Further keyword arguments of `select_instances`, by name, such as `edit_noise`.
        random_state: Key of all randomness: 0 to 2^64 - 1; a `numpy.random.RandomState` or None
            (NumPy's own generator) draw one.

    Attributes:
        sample_indices_: Row numbers of the kept rows, int64, ascending.
        sampling_strategy_: Rows kept of each class, or of each stratum by its number.
        selection_: What `select_instances` returned.
        n_features_in_: Number of features.
        feature_names_in_: Names of the features, where `X` has them.

    Example:
        >>> import numpy as np
        >>> from mbflow.select import InstanceSelector
        >>> X, y = np.arange(40.0).reshape(20, 2), np.repeat(["a", "b"], 10)
        >>> selector = InstanceSelector(fraction=0.2, method="random")
        >>> X_kept, y_kept = selector.fit_resample(X, y)
        >>> X_kept.shape, y_kept.tolist(), selector.sampling_strategy_
        ((4, 2), ['a', 'a', 'b', 'b'], {'a': 2, 'b': 2})
    """

    def __init__(
        self,
        fraction: float = 0.04,
        *,
        count: int | None = None,
        method: str = "auto",
        graph: str = "auto",
        sampling_strategy: str | Mapping[Any, int] = "auto",
        power: float = 0.75,
        quantiles: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = 0,
    ) -> None:
        self.fraction = fraction
        self.count = count
        self.method = method
        self.graph = graph
        self.sampling_strategy = sampling_strategy
        self.power = power
        self.quantiles = quantiles
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> InstanceSelector:  # noqa: N803 - scikit-learn's names
        """Choose the rows.

        Args:
            X: Features: array, list of lists, pandas, polars or pyarrow table; one row an instance.
            y: Class, or numeric target, of each row.

        Returns:
            The estimator itself.

        Raises:
            InvalidArgumentError: A parameter cannot be used, `y` holds one class only, or is no
                class and `quantiles` is not set.
            DataError: `X` cannot be used, or a target is missing.

        Example:
            >>> from mbflow.select import InstanceSelector
            >>> selector = InstanceSelector(count=2, method="random")
            >>> len(selector.fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).sample_indices_)
            2
        """
        table = self._table(X)
        names, codes = self._strata(y)
        check_consistent_length(table, codes)
        self.selection_: Selection = self._selected(table, names, codes)
        self.sample_indices_: NDArray[np.int64] = self.selection_.indices
        kept = np.bincount(codes[self.sample_indices_], minlength=len(names))
        self.sampling_strategy_ = dict(zip(names, kept.tolist(), strict=True))
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:  # noqa: N803
        """Choose the rows, and return them.

        Args:
            X: As for `fit`.
            y: As for `fit`.

        Returns:
            The kept rows of `X` and of `y`, in their order, each of the type that was given.

        Raises:
            InvalidArgumentError: As for `fit`.
            DataError: As for `fit`.

        Example:
            >>> import polars as pl
            >>> from mbflow.select import InstanceSelector
            >>> X, y = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]}), pl.Series("y", [0, 0, 1, 1])
            >>> X_kept, y_kept = InstanceSelector(count=2, method="random").fit_resample(X, y)
            >>> X_kept.shape, y_kept.to_list()
            ((2, 1), [0, 1])
        """
        kept = self.fit(X, y).sample_indices_
        return _taken(X, kept), _taken(y, kept)

    def _table(self, features: Any) -> Any:
        """The features as `select_instances` takes them, with what scikit-learn notes of them."""
        kind = type(features).__module__.partition(".")[0]
        if kind not in {"pandas", "polars", "pyarrow"}:
            return validate_data(self, features, ensure_all_finite="allow-nan")
        if kind == "pandas":
            sparse = {
                name: dtype.subtype
                for name, dtype in features.dtypes.items()
                if type(dtype).__name__ == "SparseDtype"
            }
            features = features.astype(sparse) if sparse else features
        table = to_frame(features, what="X")
        # scikit-learn refuses a pandas frame whose column names are of several types.
        validate_data(self, features if kind == "pandas" else table, skip_check_array=True)
        if not table.height or not table.width:
            raise DataError(
                f"X has {table.height} rows and {table.width} columns; expected at least one each"
            )
        return table

    def _strata(self, target: Any) -> tuple[list[Any], NDArray[np.int64]]:
        """The classes, or numbers of strata, and which of them each row is in."""
        if target is None:
            raise InvalidArgumentError(
                "InstanceSelector requires y to be passed, but the target y is None"
            )
        array = np.asarray(target)
        if self.quantiles is not None:
            return _quantile_strata(column_or_1d(array, warn=True), self.quantiles)
        if array.dtype.kind in "fc":
            assert_all_finite(array, input_name="y")
        if array.dtype.kind == "O":
            _refuse_missing(array.ravel())
        if array.dtype.kind in "mM":
            _refuse_missing(array.ravel().astype(object))
        try:
            kind = type_of_target(array, input_name="y")
        except TypeError as error:
            raise InvalidArgumentError(f"y mixes values that do not compare: {error}") from error
        if kind == "multilabel-indicator" and (np.asarray(array.sum(axis=1)) == 1).all():
            array = np.asarray(array).argmax(axis=1)
        elif kind not in {"binary", "multiclass"}:
            raise InvalidArgumentError(
                f"Unknown label type: y is {kind}; expected one class a row (set `quantiles` to "
                "select rows for a numeric target; several targets are not supported)"
            )
        values = column_or_1d(array, warn=True)
        classes, codes = np.unique(values, return_inverse=True)
        if len(classes) < 2:
            raise InvalidArgumentError(
                f"y holds only one class, {classes.tolist()[0]!r}; expected at least two classes "
                "(`select_instances` also selects from one class)"
            )
        return classes.tolist(), codes.astype(np.int64)

    def _selected(self, table: Any, names: list[Any], codes: NDArray[np.int64]) -> Selection:
        if self.settings is not None and not hasattr(self.settings, "items"):
            raise InvalidArgumentError(
                f"settings is {self.settings!r}; expected a mapping of names to values"
            )
        options = dict(self.settings or {})
        own = {"fraction", "count", "power", "seed", "quotas", "method", "graph", "quantiles"}
        twice = sorted(own & options.keys())
        if twice:
            parameter = {"seed": "random_state", "quotas": "sampling_strategy"}
            raise InvalidArgumentError(
                f"settings holds {twice[0]!r}; give it as `{parameter.get(twice[0], twice[0])}`"
            )
        strategy = self.sampling_strategy
        if not hasattr(strategy, "items") and strategy not in _RULES:
            raise InvalidArgumentError(
                f"sampling_strategy is {strategy!r}; expected {_STRATEGIES} or the rows to keep of "
                "each class in a mapping (how many in all is `fraction` or `count`)"
            )
        if not isinstance(strategy, str):
            unknown = [name for name in strategy if name not in names]
            if unknown:
                raise InvalidArgumentError(
                    f"sampling_strategy: no row has the class {unknown[0]!r}; expected the rows of "
                    f"each of the classes {names[:10]}"
                )
            options["quotas"] = {str(name): rows for name, rows in strategy.items()}
        elif strategy != "auto":
            options["quotas"] = strategy
        for name in ("method", "graph"):
            if getattr(self, name) != "auto":
                options[name] = getattr(self, name)
        return select_instances(
            table,
            Labels(codes, tuple(map(str, names))),
            fraction=self.fraction,
            count=self.count,
            power=self.power,
            seed=self._seed(),
            **options,
        )

    def _seed(self) -> int:
        state = self.random_state
        if isinstance(state, numbers.Integral):
            return int(state)
        return int(check_random_state(state).randint(2**31))

    def __sklearn_tags__(self) -> _Tags:
        tags = super().__sklearn_tags__()
        known = {part.name: getattr(tags, part.name) for part in fields(tags)}
        inputs = {part.name: getattr(tags.input_tags, part.name) for part in fields(InputTags)}
        known["input_tags"] = _InputTags(**(inputs | {"allow_nan": True}))
        result = _Tags(**known)
        result.estimator_type = "sampler"
        result.target_tags.required = True
        return result


def _refuse_missing(values: NDArray[Any]) -> None:
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise DataError(
                f"y has no class (None or NaN) in row {row}; drop such rows or give them a class",
                row=row,
            )


def _quantile_strata(target: NDArray[Any], quantiles: Any) -> tuple[list[int], NDArray[np.int64]]:
    """Strata of nearly equal size along a numeric target; equal targets share one."""
    if (
        isinstance(quantiles, bool)
        or not isinstance(quantiles, numbers.Integral)
        or int(quantiles) < 1
    ):
        raise InvalidArgumentError(
            f"quantiles is {quantiles!r}; expected None or a whole number of at least 1"
        )
    try:
        values = target.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError("y is not numeric, as `quantiles` needs it") from error
    assert_all_finite(values, input_name="y")
    inner = np.quantile(values, np.linspace(0.0, 1.0, int(quantiles) + 1)[1:-1])
    found = np.searchsorted(np.unique(inner), values, side="left")
    present, codes = np.unique(found, return_inverse=True)
    return list(range(len(present))), codes.astype(np.int64)


def _taken(data: Any, rows: NDArray[np.int64]) -> Any:
    """The rows of whatever holds rows, as the same type."""
    kind = type(data).__module__.partition(".")[0]
    if isinstance(data, list | tuple):
        return type(data)(data[row] for row in rows)
    if kind == "pandas":
        return data.iloc[rows]
    if kind == "polars":
        return data[rows]
    if kind == "pyarrow":
        return data.take(rows)
    return np.asarray(data)[rows]
