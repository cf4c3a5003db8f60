"""Tensors in a Flower message: the bytes that Flower itself would send, and bad ones are refused by name."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from strategy.arrays import from_arrays, to_arrays

TENSORS = {
    "weights": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.arange(12.0).view(3, 4).T,
    "number": torch.tensor(7),
    "double": torch.tensor([1e300], dtype=torch.float64),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 5),
}


def test_they_are_flowers_own_arrays():
    assert to_arrays(TENSORS) == ArrayRecord({name: tensor.contiguous() for name, tensor in TENSORS.items()})


def in_fortran_order(tensor):
    file = io.BytesIO()
    np.save(file, np.asarray(tensor.numpy(), order="F"))
    return Array(str(tensor.numpy().dtype), tuple(tensor.shape), "numpy.ndarray", file.getvalue())


@pytest.mark.parametrize(
    "record", [ArrayRecord(TENSORS), ArrayRecord({name: in_fortran_order(t) for name, t in TENSORS.items()})]
)
@pytest.mark.filterwarnings("error")
def test_they_come_back_as_they_were(record):
    got = from_arrays(record)
    assert got.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(got[name], tensor)


def test_they_are_not_copied_on_the_way_out():
    array = Array(torch.zeros(1000))
    got = from_arrays(ArrayRecord({"a": array}))["a"]
    assert got.data_ptr() + got.nbytes == np.frombuffer(array.data, np.uint8).ctypes.data + len(array.data)


GOOD = Array(torch.zeros(2, 3))
BAD = {
    "cut off": Array(GOOD.dtype, GOOD.shape, GOOD.stype, GOOD.data[:-4]),
    "too long": Array(GOOD.dtype, GOOD.shape, GOOD.stype, GOOD.data + b"more"),
    "no header": Array(GOOD.dtype, GOOD.shape, GOOD.stype, b"\0" * 24),
    "nothing": Array(GOOD.dtype, GOOD.shape, GOOD.stype, b""),
    "an unknown type": Array("float33", GOOD.shape, GOOD.stype, GOOD.data),
    "objects": Array("object", GOOD.shape, GOOD.stype, GOOD.data.replace(b"<f4", b"|O ")),
    "text": Array(np.array(["a"])),
    "another form": Array(GOOD.dtype, GOOD.shape, "torch.save", b"\0" * 24),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_array_is_refused_by_its_name(what):
    with pytest.raises(ValueError, match=r"^tensor head2\.bias: "):
        from_arrays(ArrayRecord({"head2.bias": BAD[what]}))
