"""Memory of attention that is used again: of one epoch for the next."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Spares", "memory"]

_LEAST = 1 << 20
"""Bytes below which memory is torch's: asking the system for less costs little."""
_LINE = 64
"""Bytes of a cache line; rows that begin with one do not take part of another."""
_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


def memory(tensor: torch.Tensor | None) -> Any:
    """A NumPy view of a tensor's memory, which stays where it is; None for None.

    Example:
        >>> import torch
        >>> from mbflow.edge_attention.memory import memory
        >>> memory(torch.ones(2))
        array([1., 1.], dtype=float32)
    """
    return None if tensor is None else tensor.detach().numpy()


class Spares:
    """Makes tensors of memory that was given back by tensors that are gone.

    Fresh memory has to be cleared by the system, page by page, at its first use: on a whole graph a
    tenth of an epoch. What is kept and what is in use are together never more than what was in use
    at one time.

    Example:
        >>> import torch
        >>> from mbflow.edge_attention.memory import Spares
        >>> spares = Spares()
        >>> tensor = spares.empty(torch.float32, 1000, 500)
        >>> where = tensor.data_ptr()
        >>> del tensor
        >>> spares.empty(torch.float32, 1000, 500).data_ptr() == where
        True
    """

    def __init__(self) -> None:
        self._spares: list[NDArray[np.uint8]] = []
        # Tensors may go at any moment and on any thread: all that happens then is an append.
        self._returned: deque[NDArray[np.uint8]] = deque()
        self._lock = threading.Lock()
        self._used = 0
        self._most = 0

    def empty(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor with any content, on the CPU; a large one begins with a cache line.

        Args:
            dtype: float32 or float64.
            shape: Its shape.

        Returns:
            The tensor.

        Example:
            >>> import torch
            >>> from mbflow.edge_attention.memory import Spares
            >>> Spares().empty(torch.float64, 2, 3).shape
            torch.Size([2, 3])
        """
        kind = np.dtype(_TYPES[dtype])
        size = math.prod(shape) * kind.itemsize
        # Nobody waits, also not in a forked process for a thread that is not there.
        if size < _LEAST or not self._lock.acquire(blocking=False):
            return torch.empty(shape, dtype=dtype)
        try:
            buffer = self._take(size)
        finally:
            self._lock.release()
        first = -buffer.ctypes.data % _LINE
        array = buffer[first : first + size].view(kind).reshape(shape)
        weakref.finalize(array, self._returned.append, buffer).atexit = False
        return torch.from_numpy(array)

    def _take(self, size: int) -> NDArray[np.uint8]:
        while self._returned:
            buffer = self._returned.popleft()
            self._used -= buffer.nbytes
            self._spares.append(buffer)
        room = size + _LINE
        fitting = [place for place, spare in enumerate(self._spares) if spare.nbytes >= room]
        place = min(fitting, key=lambda place: self._spares[place].nbytes, default=None)
        # More than that is wasted on this one.
        if place is not None and self._spares[place].nbytes <= 2 * room:
            buffer = self._spares.pop(place)
        else:
            # NumPy asks for large pages, torch does not: rows are read in no order.
            buffer = np.empty(room, dtype=np.uint8)
        self._used += buffer.nbytes
        self._most = max(self._most, self._used)
        while self._used + sum(spare.nbytes for spare in self._spares) > self._most:
            del self._spares[0]
        return buffer
