"""The errors mbflow raises, each with the exit code that the command line gives for it.

Every message says what was wrong, where, what was expected and what to do. All classes derive from
`MbflowError`; each also derives from the built-in that fits, so `except ValueError` works as well.

Example:
    >>> from mbflow.errors import DataError, MbflowError
    >>> issubclass(DataError, MbflowError), DataError.exit_code
    (True, 3)
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "DataError",
    "DefectError",
    "InterruptedRunError",
    "InvalidArgumentError",
    "MbflowError",
    "MissingExtraError",
    "PipelineError",
    "ResourceError",
    "require",
]


class MbflowError(Exception):
    """Base of all errors that mbflow raises on purpose.

    Example:
        >>> from mbflow.errors import MbflowError
        >>> MbflowError("x").exit_code
        1
    """

    exit_code: ClassVar[int] = 1


class DefectError(MbflowError, RuntimeError):
    """A fault of mbflow itself, such as a panic in a kernel. Please report it.

    Example:
        >>> from mbflow.errors import DefectError
        >>> DefectError.exit_code
        1
    """


class InvalidArgumentError(MbflowError, ValueError):
    """An argument has a value that cannot be used: wrong range, type, shape or length.

    Example:
        >>> from mbflow.errors import InvalidArgumentError
        >>> issubclass(InvalidArgumentError, ValueError)
        True
    """

    exit_code = 2


class PipelineError(MbflowError, ValueError):
    """A pipeline file is wrong. `problems` holds one line for each problem found.

    Example:
        >>> from mbflow.errors import PipelineError
        >>> PipelineError(["a.yaml:1:1: the file is empty"]).problems
        ('a.yaml:1:1: the file is empty',)
    """

    exit_code = 2

    def __init__(self, problems: list[str] | tuple[str, ...] | str) -> None:
        lines = (problems,) if isinstance(problems, str) else tuple(problems)
        self.problems: tuple[str, ...] = lines
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[PipelineError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class DataError(MbflowError, ValueError):
    """Data cannot be used: unreadable or changed files, nulls, NaN, infinities, missing columns.

    Attributes:
        row: The first bad row, counted from 0 in the rows that were given, or None. A pipeline adds
            the file and the row in it.

    Example:
        >>> from mbflow.errors import DataError
        >>> DataError("column 'x' is null in row 7", row=7).row
        7
    """

    exit_code = 3

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row

    def __reduce__(self) -> tuple[object, ...]:
        return _data_error, (str(self), self.row)


def _data_error(message: str, row: int | None) -> DataError:
    return DataError(message, row=row)


class ResourceError(MbflowError, OSError):
    """The machine refuses: disk full, no permission, no memory, a folder in use by another run.

    Example:
        >>> from mbflow.errors import ResourceError
        >>> issubclass(ResourceError, OSError)
        True
    """

    exit_code = 4

    def __str__(self) -> str:
        # OSError would put the number first; the message says it in words.
        return str(self.args[-1]) if self.args else ""


class MissingExtraError(MbflowError, ImportError):
    """An optional dependency is missing; the message names the `pip install` to run.

    Example:
        >>> from mbflow.errors import MissingExtraError
        >>> issubclass(MissingExtraError, ImportError)
        True
    """

    exit_code = 4


class InterruptedRunError(MbflowError):
    """The run was interrupted; what it finished is kept and the next run goes on from there.

    Example:
        >>> from mbflow.errors import InterruptedRunError
        >>> InterruptedRunError.exit_code
        5
    """

    exit_code = 5


def require(module: str, *, extra: str, purpose: str) -> object:
    """Import an optional module, or say which extra brings it.

    Args:
        module: Name to import, such as `"torch"`.
        extra: The extra of mbflow that brings it, such as `"train"`.
        purpose: What it is needed for, as it stands after "... is needed for".

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed.

    Example:
        >>> from mbflow.errors import require
        >>> require("json", extra="train", purpose="this example").__name__
        'json'
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingExtraError(
            f"the package `{top}` is needed for {purpose} and is not installed; "
            f"run: pip install 'mbflow[{extra}]'"
        ) from None
