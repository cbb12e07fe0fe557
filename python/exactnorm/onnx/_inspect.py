"""An ONNX model's batch normalizations beside the data that reaches them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from exactnorm._fold_report import FoldReport, RefusedNorm
from exactnorm._inspection import InspectedNorm, Inspection
from exactnorm.onnx._fold import check, fold, hidden
from exactnorm.onnx._graph import Array, Graph, attribute
from exactnorm.onnx._layers import is_op, name_of
from exactnorm.onnx._verify import session_of


def inspect(
    model: onnx.ModelProto, inputs: Iterable[Mapping[str, Array]] | Mapping[str, Array] | None = None, *, folds: bool = True
) -> Inspection:
    """Looks at a model's BatchNormalization steps, as `exactnorm.torch.inspect` does at PyTorch's; `write` makes a page or JSON of it.

    inputs
        Batches, each of arrays by name; or one of them. They are run by ONNX Runtime. Without, only parameters are looked at.
    folds
        Whether `fold` is tried, with the first batch as its inputs.

    Steps in subgraphs, and those whose parameters are no constants, are in `untouched`, with the reason.

    Raises ValueError where onnx's checker refuses the model, where it has no BatchNormalization, and where there are no batches, or ONNX Runtime does not take
    them; ImportError where it is missing.
    """
    check(model)
    graph = Graph(model)
    norms: dict[str, tuple[onnx.NodeProto, InspectedNorm]] = {}
    untouched: dict[str, str] = {}
    for node in graph.nodes:
        if not is_op(node, "BatchNormalization"):
            continue
        name, number = name_of(node), 1
        while name in norms or name in untouched:
            number += 1
            name = f"{name_of(node)} ({number})"
        norm = _inspected(graph, node, name)
        if isinstance(norm, str):
            untouched[name] = norm
        else:
            norms[name] = (node, norm)
    untouched |= dict(hidden(model))
    if not norms and not untouched:
        raise ValueError("model: has no BatchNormalization; expected at least one")
    title = model.graph.name if isinstance(model.graph.name, str) else ""
    result = Inspection(title or "the model", {name: norm for name, (_, norm) in norms.items()}, untouched=untouched)
    first: Mapping[str, Array] | None = None
    if inputs is not None:
        batches = [inputs] if isinstance(inputs, Mapping) else inputs
        first = _run(model, graph, list(norms.values()), batches, result)
    if folds:
        result.set_folds(_folds(model, first))
    return result


def _inspected(graph: Graph, node: onnx.NodeProto, name: str) -> InspectedNorm | str:
    """Or why there is nothing to say of it."""
    if attribute(node, "spatial", 1) != 1:
        return "it has statistics for each place"
    constants = [graph.constant(name) for name in node.input[1:5]]
    gamma, beta, mean, variance = (None if constant is None else constant.astype(np.float64).ravel() for constant in constants)
    if gamma is None or beta is None or mean is None or variance is None:
        return "its parameters are not constants"
    if not gamma.shape == beta.shape == mean.shape == variance.shape:
        return "its parameters have different numbers of channels"
    epsilon = float(attribute(node, "epsilon", np.float32(1e-5)))
    return InspectedNorm(name, node.op_type, epsilon, gamma, beta, mean, variance)


def _run(
    model: onnx.ModelProto,
    graph: Graph,
    norms: list[tuple[onnx.NodeProto, InspectedNorm]],
    batches: Iterable[Mapping[str, Array]],
    result: Inspection,
) -> Mapping[str, Array]:
    """Adds what reaches the normalizations; returns the first batch."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError("inputs: need ONNX Runtime, which is not installed: pip install onnxruntime")
    names = list(dict.fromkeys(name for node, _ in norms for name in (node.input[0], node.output[0]) if name not in graph.inputs))
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    first: Mapping[str, Array] | None = None
    session: Any = None
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise ValueError(f"inputs: have a batch of type {type(batch).__name__}; expected arrays by name")
        given = {name: np.asarray(array) for name, array in batch.items()}
        try:
            session = session or session_of(shown)
            values = dict(zip(names, session.run(names, given), strict=True)) if names else {}
        except Exception as error:  # noqa: BLE001 - of many kinds
            raise ValueError(f"inputs: cannot be run by ONNX Runtime: {error}") from error
        first = given if first is None else first
        result.batches += 1
        for node, norm in norms:
            if norm.name in result.untouched:
                continue
            before = values.get(node.input[0], given.get(node.input[0]))
            try:
                if before is None or before.ndim < 2:
                    raise ValueError("its input is not given, or has no channels")
                norm.add(before, values[node.output[0]])
            except (ValueError, TypeError) as error:
                norm.forget()
                result.untouched[norm.name] = f"its values cannot be added up: {error}"
    if first is None:
        raise ValueError("inputs: have no batch; expected at least one")
    return first


def _folds(model: onnx.ModelProto, inputs: Mapping[str, Array] | None) -> FoldReport:
    try:
        return fold(model, inputs)[1]
    except ValueError as error:
        names = [name_of(node) for node in model.graph.node if is_op(node, "BatchNormalization")]
        return FoldReport(refused=[RefusedNorm(name, str(error)) for name in names])
