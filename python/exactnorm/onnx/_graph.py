"""An ONNX graph's values: which step makes them, how often they are used, and which are constant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]


# Bytes that one message of protobuf may have: models beyond it exist in memory, and as files with external data.
_largest_message = 2**31 - 1


def is_large(model: onnx.ModelProto) -> bool:
    """Whether it is beyond what protobuf serializes, with some room for what is not in initializers."""
    size: int = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    return size > _largest_message - 2**24


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def _array_of(tensor: onnx.TensorProto) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # noqa: BLE001 - of many kinds, where a file is damaged
        raise ValueError(f"model: the constant {tensor.name} is not a tensor: {error}") from error


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for found in node.attribute:
        if found.HasField("g"):
            yield found.g
        yield from found.graphs


def _inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """With what its subgraphs take from outside; names that these make themselves do not matter, as they are others."""
    yield from node.input
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _inputs_of(inner)
        yield from (output.name for output in graph.output)


def _names_in(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for values in (graph.initializer, graph.input, graph.output) for value in values)
    for node in graph.node:
        yield from node.output
        for inner in subgraphs(node):
            yield from _names_in(inner)


class Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        self._initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        # Since version 4 an initializer that is an input as well is a default that callers may replace.
        self.inputs = {value.name for value in self.graph.input}
        self.has_old_initializers = model.ir_version < 4
        # Kept, so that each step is one object.
        self.nodes = list(self.graph.node)
        self._removed: set[int] = set()
        self._inserted: dict[int, onnx.NodeProto] = {}
        self.producers = {output: node for node in self.nodes for output in node.output if output}
        self.uses = self._counted()
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in set(_inputs_of(node)):
                self.consumers.setdefault(name, []).append(node)
        self.names = set(_names_in(self.graph))
        self.ranks = self._ranks()

    def _counted(self) -> Counter[str]:
        uses = Counter(name for node in self.graph.node for name in _inputs_of(node) if name)
        uses.update(output.name for output in self.graph.output)
        return uses

    def _ranks(self) -> dict[str, int]:
        """As far as ONNX's inference of shapes tells."""
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model).graph
        except Exception:  # noqa: BLE001 - of models that it does not follow nothing is known
            return {}
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        return {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in values
            if value.type.tensor_type.HasField("shape")
        }

    def constant(self, name: str) -> Array | None:
        """A value that is the same in each call; None for all others."""
        tensor = self._initializers.get(name)
        if tensor is not None:
            is_default = name in self.inputs and not self.has_old_initializers
            return None if is_default else _array_of(tensor)
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            return None
        value = attribute(node, "value", None)
        if value is not None:
            return _array_of(value)
        for kind in ("value_float", "value_floats"):
            value = attribute(node, kind, None)
            if value is not None:
                return np.array(value, np.float32)
        return None

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one step that uses a value, once; None where it has other uses, or is one of the model's outputs."""
        if self.uses[name] != 1:
            return None
        consumers = self.consumers.get(name, [])
        return consumers[0] if consumers and name in consumers[0].input else None

    def new_constant(self, name: str, values: Array) -> str:
        """Adds an initializer, under a name like this one."""
        unique = self.new_name(f"{name}_folded")
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), unique))
        if self.has_old_initializers:
            kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            self.graph.input.append(onnx.helper.make_tensor_value_info(unique, kind, values.shape))
        return unique

    def new_name(self, name: str) -> str:
        """A name like this one that no value has."""
        unique, number = name, 1
        while unique in self.names:
            number += 1
            unique = f"{name}_{number}"
        self.names.add(unique)
        return unique

    def remove(self, node: onnx.NodeProto) -> None:
        """In `finish`, as `insert_after` does: positions and objects stay until then."""
        self._removed.add(id(node))

    def insert_after(self, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
        self._inserted[id(node)] = new

    def finish(self) -> None:
        """Makes the changes of steps, and drops constants that had a use before and have none now."""
        steps: list[onnx.NodeProto] = []
        for node in self.nodes:
            if id(node) not in self._removed:
                steps.append(node)
            if id(node) in self._inserted:
                steps.append(self._inserted[id(node)])
        copies = [onnx.NodeProto.FromString(step.SerializeToString()) for step in steps]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        uses = self._counted()
        unused = {name for name in self.uses if uses[name] == 0}
        for values in (self.graph.initializer, self.graph.value_info):
            kept = [value for value in values if value.name not in unused]
            del values[:]
            values.extend(kept)
        if self.has_old_initializers:
            inputs = [value for value in self.graph.input if value.name not in unused or value.name not in self._initializers]
            del self.graph.input[:]
            self.graph.input.extend(inputs)
        nodes = [node for node in self.graph.node if node.op_type != "Constant" or node.output[0] not in unused]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
