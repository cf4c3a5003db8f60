"""Tensors in a Flower message: in Flower's own form, that of `numpy.save`, with one copy on the way in and none out."""

import io
import warnings
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType
from torch import Tensor

from fed_rebel.tensor_file import Tensors

with warnings.catch_warnings():
    # torch says once in a process that a view of bytes must not be written to.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"-", np.uint8))


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """The tensors as arrays under their names."""
    return ArrayRecord({name: _array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in tensors.items()})


def from_arrays(record: ArrayRecord) -> Tensors:
    """The arrays as tensors, which are not to be written to: they lie in the message, which clients may share.

    Raises `ValueError` naming an array that is none, or not as long as its shape.
    """
    tensors = {}
    for name, array in record.items():
        try:
            tensors[name] = torch.from_numpy(_numbers(array))
        except (ValueError, TypeError, EOFError) as error:
            raise ValueError(f"tensor {name}: {error}") from None
    return tensors


def _array(numbers: np.ndarray) -> Array:
    dtype = str(numbers.dtype)
    return Array(dtype, numbers.shape, SType.NUMPY, b"".join((_header(dtype, numbers.shape), numbers.data)))


def _numbers(array: Array) -> np.ndarray:
    header = _header(array.dtype, tuple(array.shape))
    if array.data.startswith(header):
        return np.frombuffer(array.data, array.dtype, offset=len(header)).reshape(array.shape)
    return array.numpy()  # somebody else's, or another NumPy's, header


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What `numpy.save` writes before the numbers."""
    file = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()
