"""Made-up events joined with made-up operators: what the runtime does not do today."""

from __future__ import annotations

import time
from typing import Any

from mnv4_deploy.profiles.join.xnnpack import join_xnnpack
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.records.timing import Backend, OpTiming
from tests.profiles.planted_tflite import check_conserved


def chain(*kinds: str, dtype: str = "float32") -> ModelGraph:
    """Operators in a row, each with one input and one output."""
    tensors = tuple(Tensor(f"t{i}", (1, 8), dtype) for i in range(len(kinds) + 1))
    ops = tuple(Operator(i, kind, f"op{i}", (i,), (i + 1,)) for i, kind in enumerate(kinds))
    return ModelGraph("tflite", tensors, ops, (0,), (len(kinds),))


def events(*tags: str, backend: Backend = "xnnpack", partition: int | None = 0) -> list[OpTiming]:
    return [OpTiming(tag, backend, (1.0,), partition=partition) for tag in tags]


def join(graph: ModelGraph, timings: list[OpTiming]) -> list[tuple[Any, ...]]:
    layers = join_xnnpack(graph, timings)
    check_conserved(graph, timings, layers)
    return [(layer.op_type, layer.op_indices, layer.timing_indices) for layer in layers]


def test_kernel_that_nothing_explains_is_a_row_of_its_own() -> None:
    rows = join(
        chain("ADD", "SOFTMAX"), events("Add (ND)", "Warp Drive (NC)", "Softmax (NC, F32)")
    )
    assert rows == [
        ("ADD", (0,), (0,)),
        ("Warp Drive (NC)", (), (1,)),
        ("SOFTMAX", (1,), (2,)),
    ]


def test_operators_are_never_matched_by_position() -> None:
    # As many events as operators, but of other kinds and in another order.
    rows = join(chain("ADD", "TANH"), events("TanH (NC)", "Softmax (NC, F32)"))
    assert ("TANH", (1,), (0,)) in rows
    assert ("ADD", (0,), ()) in rows
    assert ("Softmax (NC, F32)", (), (1,)) in rows


def test_dropped_operator_of_an_equal_pair_is_the_one_of_the_other_type() -> None:
    tensors = (
        Tensor("a", (1, 8), "int8"),
        Tensor("b", (1, 8), "int8"),
        Tensor("c", (1, 8), "float32"),
        Tensor("d", (1, 8), "float32"),
    )
    ops = (
        Operator(0, "SOFTMAX", "first", (0,), (1,)),
        Operator(1, "SOFTMAX", "second", (2,), (3,)),
    )
    graph = ModelGraph("tflite", tensors, ops, (0, 2), (1, 3))
    assert ("SOFTMAX", (1,), (0,)) in join(graph, events("Softmax (NC, F32)"))
    assert ("SOFTMAX", (0,), (0,)) in join(graph, events("Softmax (NC, QU8)"))


def test_unlisted_operator_takes_an_unknown_kernel_but_no_known_one() -> None:
    assert join(chain("HASHTABLE"), events("Hash (NC)")) == [("HASHTABLE", (0,), (0,))]
    rows = join(chain("HASHTABLE"), events("Softmax (NC, F32)"))
    assert ("HASHTABLE", (0,), ()) in rows and ("Softmax (NC, F32)", (), (0,)) in rows


def test_composite_takes_the_kernels_between_its_neighbours() -> None:
    graph = chain("ADD", "STABLEHLO_COMPOSITE", "TANH")
    inner = ["Transpose (ND, X32)", "Batch Matrix Multiply (NC, F32)", "Softmax (NC, F32)"]
    assert join(graph, events("Add (ND)", *inner, "TanH (NC)")) == [
        ("ADD", (0,), (0,)),
        ("STABLEHLO_COMPOSITE", (1,), (1, 2, 3)),
        ("TANH", (2,), (4,)),
    ]


def test_more_partitions_than_the_rule_gives_are_still_joined_in_order() -> None:
    timings = [*events("Add (ND)"), *events("TanH (NC)", partition=1)]
    layers = join_xnnpack(chain("ADD", "TANH"), timings)
    check_conserved(chain("ADD", "TANH"), timings, layers)
    assert [(layer.op_type, layer.partition) for layer in layers] == [("ADD", 0), ("TANH", 1)]


def test_nothing_measured_leaves_every_operator_without_time() -> None:
    assert join(chain("ADD", "TANH"), []) == [("ADD", (0,), ()), ("TANH", (1,), ())]


def test_work_of_the_runtime_and_of_other_graphs_has_no_operator() -> None:
    timings = [
        OpTiming("LiteRT::Run[buffer registration]", "runtime", (5.0,)),
        OpTiming("ADD", "builtin", (1.0,), op_index=0),
        OpTiming("MUL", "builtin", (1.0,)),
        OpTiming("SUB", "builtin", (1.0,), op_index=99),
    ]
    assert join(chain("ADD"), timings) == [
        ("runtime", (), (0,)),
        ("ADD", (0,), (1,)),
        ("MUL", (), (2,)),
        ("SUB", (), (3,)),
    ]


def test_long_file_is_joined_quickly() -> None:
    kinds = ["ADD", "TANH", "RESHAPE"] * 700
    tags = ["Add (ND)", "TanH (NC)"] * 700
    started = time.process_time()  # which other programs do not lengthen
    rows = join(chain(*kinds), events(*tags))
    assert time.process_time() - started < 10
    assert sum(kind == "RESHAPE" and not times for kind, _, times in rows) == 700
