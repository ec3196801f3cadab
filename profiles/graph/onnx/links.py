"""What makes and what reads each value of an ONNX graph, and edits that keep track of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


class OnnxLinks:
    """The values of ``graph`` by name: their makers, their readers, and the constants.

    ``readers`` has a node as often as it reads the value. ``constants`` are initializers and the
    tensors of Constant nodes. Nodes of subgraphs (If, Loop, Scan) are left out. All stay true as
    long as nodes are changed through the methods only.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.outputs = frozenset(value.name for value in graph.output)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            self._link(node)

    def _link(self, node: onnx.NodeProto) -> None:
        self.makers.update((name, node) for name in node.output if name)
        for name in filter(None, node.input):
            self.readers[name].append(node)
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                self.constants[node.output[0]] = attribute.t

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node that makes ``name``, None unless it is of ``kind``."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def reader_kinds(self, name: str) -> list[str]:
        return [node.op_type for node in self.readers[name]]

    def value(self, name: str) -> npt.NDArray[Any] | None:
        """A constant, None for what the file does not store."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add(self, kind: str, inputs: Sequence[str], output: str, *, name: str) -> None:
        """Append a node."""
        from onnx import helper

        self.graph.node.append(helper.make_node(kind, inputs, [output], name=name))
        self._link(self.graph.node[-1])

    def add_constant(self, name: str, value: npt.ArrayLike) -> None:
        """Append an initializer of the type that ``value`` has in NumPy."""
        import numpy as np
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        self.constants[name] = self.graph.initializer[-1]

    def remove(self, node: onnx.NodeProto) -> None:
        """Remove a node; what reads its results keeps reading their names."""
        for name in filter(None, node.input):
            self.readers[name].remove(node)
        for name in filter(None, node.output):
            del self.makers[name]
        self.graph.node.remove(node)

    def replace_reads(self, name: str, new: str, nodes: Container[str] | None = None) -> None:
        """Let what reads ``name`` read ``new``: every node, or those with a name in ``nodes``."""
        for node in self.readers.pop(name, []):
            chosen = nodes is None or node.name in nodes
            if chosen:
                node.input[:] = [new if read == name else read for read in node.input]
            self.readers[new if chosen else name].append(node)

    def rename(self, name: str, new: str) -> None:
        """Give what a node makes the name ``new``, where it is made and where it is read.

        The outputs of the graph keep their names: one of these becomes another value by this.
        """
        maker = self.makers.pop(name)
        maker.output[:] = [new if made == name else made for made in maker.output]
        self.makers[new] = maker
        self.replace_reads(name, new)
