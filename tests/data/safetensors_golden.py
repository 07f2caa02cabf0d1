#!/usr/bin/env python3
"""Makes golden/python.safetensors, and checks that Python reads the same tensors from a file.

    pip install 'safetensors>=0.8' numpy
    safetensors_golden.py make golden/python.safetensors
    safetensors_golden.py check FILE

safetensors_test writes these tensors too, and its file must have the golden file's very bytes.
"""
import sys

import numpy as np
import safetensors

# In the order in which Python's library lays them out: every dtype, a scalar, an empty tensor, a
# name beyond ASCII. numpy has no bfloat16: "brain" holds the bits of 1, -3 and infinity.
GOLDEN = {
    "counts": np.array([-(2**62), -1, 0, 2**62], dtype=np.int64),
    "weights.f64": np.array([[0.1, -2.5, np.inf], [1e-300, -0.0, 3.0]], dtype=np.float64),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "scalar": np.array(-7.25, dtype=np.float32),
    "schräg": np.arange(6, dtype=np.int32).reshape(1, 2, 3) - 3,
    "brain": np.array([0x3F80, 0xC040, 0x7F80], dtype=np.uint16),
    "half": np.array([1.5, -65504.0], dtype=np.float16),
    "pixels": np.array([0, 1, 255], dtype=np.uint8),
    "mask": np.array([True, False, True]),
}
METADATA = {"format": 'golden "quoted" ü'}


def make(path):
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16" if name == "brain" else str(array.dtype),
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in GOLDEN.items()
    }
    safetensors.serialize_file(specs, path, METADATA)


def check(path):
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == METADATA, file.metadata()
        assert set(file.keys()) == set(GOLDEN), file.keys()
        for name, array in GOLDEN.items():
            if name != "brain":
                read = file.get_tensor(name)
                assert read.dtype == array.dtype, (name, read.dtype)
                np.testing.assert_array_equal(read, array, name, strict=True)
    with open(path, "rb") as file:
        entries = dict(safetensors.deserialize(file.read()))
    for name, array in GOLDEN.items():
        entry = entries[name]
        assert tuple(entry["shape"]) == array.shape, (name, entry["shape"])
        assert (entry["dtype"] == "BF16") == (name == "brain"), (name, entry["dtype"])
        assert bytes(entry["data"]) == array.tobytes(), name
    print(f"{path}: {len(GOLDEN)} tensors as expected (safetensors {safetensors.__version__})")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](sys.argv[2])
