"""A graph in the making: nodes, constants, inputs and outputs, each value known by its name.

Axes of values stand at the end of their names, as everywhere; b batch, l length of any clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]

#: what old runtimes and those of browsers read
OPSET, IR_VERSION = 17, 8
#: constants of at most so many values are kept once, however often they are asked for
_SMALL = 64
_TYPES = {
    "bool": TensorProto.BOOL,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
}
#: where a slice ends that has no other end
_END = 2**62


class Graph:
    """Collect the parts of a graph; every method that adds something returns the name of its value."""

    def __init__(self, weights: str = "fp32") -> None:
        """Begin an empty graph.

        Args:
            weights: how ``weight`` stores values: fp32, or fp16, which a node turns back into float32.
        """
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, kind: str, shape: list[str | int]) -> str:
        """Add an input of a type (float32, int64, bool); an axis that may have any length is a word."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[kind], shape))
        return name

    def output(self, value: str, name: str, kind: str, shape: list[str | int]) -> None:
        """Make a value an output of this name."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _TYPES[kind], shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output. An input that is left out is an empty name."""
        return self.ops(kind, *inputs, count=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Add a node with ``count`` outputs."""
        names = [self._name(kind.lower()) for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names

    def constant(self, values: npt.NDArray[Any]) -> str:
        """Add values as they are."""
        key = (values.dtype.str, values.shape, values.tobytes()) if values.size <= _SMALL else None
        if key in self._known:
            return self._known[key]
        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        if key is not None:
            self._known[key] = name
        return name

    def weight(self, values: npt.NDArray[Any]) -> str:
        """Add float32 values, stored as the graph stores its weights."""
        if self._weights == "fp32":
            return self.constant(np.asarray(values, np.float32))
        return self.op("Cast", self.constant(np.asarray(values, np.float16)), to=TensorProto.FLOAT)

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def integer(self, value: int) -> str:
        """Add an int64 scalar."""
        return self.constant(np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        """Add int64 values: axes, places, shapes."""
        return self.constant(np.array(values, np.int64))

    def cast(self, value: str, kind: str) -> str:
        """Turn a value into another type."""
        return self.op("Cast", value, to=_TYPES[kind])

    def slice(self, value: str, start: int, end: int | None, axis: int) -> str:
        """Take a part of one axis; negative places count from the end, and None is the end."""
        last = _END if end is None else end
        return self.op("Slice", value, self.integers(start), self.integers(last), self.integers(axis))

    def slice_from(self, value: str, start: str, axis: int) -> str:
        """Take what follows a place, which is a vector of one value."""
        return self.op("Slice", value, start, self.integers(_END), self.integers(axis))

    def slice_to(self, value: str, end: str, axis: int) -> str:
        """Take what is before a place, which is a vector of one value."""
        return self.op("Slice", value, self.integers(0), end, self.integers(axis))

    def length(self, value: str, axis: int) -> str:
        """Return the length of an axis, as a vector of one value."""
        return self.slice(self.op("Shape", value), axis, axis + 1, 0)

    def mask(self, num_b: str, value: str, axis: int) -> str:
        """Return true inside each utterance, for the length that an axis of a value has. Shapes: (b,) -> (b, l)."""
        end = self.op("Squeeze", self.length(value, axis), self.integers(0))
        at_l = self.op("Range", self.integer(0), end, self.integer(1))
        return self.op(
            "Less", self.op("Unsqueeze", at_l, self.integers(0)), self.op("Unsqueeze", num_b, self.integers(1))
        )

    def masked(self, value: str, num_b: str, axis: int, rank: int) -> str:
        """Set a value to zero beyond each utterance's length along an axis; the batch is axis 0.

        By a choice, not by a product: padding may hold inf or nan.
        """
        inside = self.mask(num_b, value, axis)
        others = [place for place in range(1, rank) if place != axis]
        if others:
            inside = self.op("Unsqueeze", inside, self.integers(*others))
        return self.op("Where", inside, value, self.number(0.0))

    def strided(self, num_b: str, stride: int) -> str:
        """Count the steps of a layer with a stride: ceil(length / stride). Shapes: (b,) -> (b,)."""
        if stride == 1:
            return num_b
        return self.op("Div", self.op("Add", num_b, self.integer(stride - 1)), self.integer(stride))

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """Return the whole, checked by onnx.

        Raises:
            onnx.checker.ValidationError: it is no valid graph.
        """
        graph = helper.make_graph(self._nodes, "asr", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="asr")
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
