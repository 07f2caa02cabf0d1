"""Golden values as a safetensors file: tensors, and a JSON text that says what they are.

write("op_golden.safetensors", document) writes the file into this folder. The document is what JSON
can hold, with torch tensors anywhere in it. Each of them becomes a tensor of the file, named after
its way through the document ("17.inputs.0"), and in the text, which the file's metadata has as
"cases", that name stands in its place. golden.h reads this.
"""
import json
import os
import struct

import torch

# The widest first, so that every tensor is aligned.
DTYPES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32",
          torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.bool: "BOOL"}


def kept(t):
    """The values as they are now, or None for None."""
    return None if t is None else t.detach().clone()


def without_tensors(node, way, tensors):
    """The document as JSON can hold it; `tensors` collects what it names."""
    if isinstance(node, torch.Tensor):
        name = ".".join(way)
        assert name not in tensors, name
        tensors[name] = node
        return name
    if isinstance(node, dict):
        return {key: without_tensors(v, [*way, key], tensors) for key, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [without_tensors(v, [*way, str(i)], tensors) for i, v in enumerate(node)]
    return node


def raw(t):
    t = t.detach().contiguous()
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()


def write(file, document):
    tensors = {}
    cases = without_tensors(document, [], tensors)
    header = {"__metadata__": {
        "torch": torch.__version__,
        "cases": json.dumps(cases, separators=(",", ":"), allow_nan=False)}}
    data = bytearray()
    order = list(DTYPES)
    for name, t in sorted(tensors.items(), key=lambda item: order.index(item[1].dtype)):
        begin = len(data)
        data += raw(t)
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape),
                        "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), file), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
