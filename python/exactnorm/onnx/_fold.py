"""Folding of ONNX models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

import exactnorm
from exactnorm import FoldedLayer, Normalization
from exactnorm._fold_report import FoldedNorm, FoldReport, RefusedNorm
from exactnorm._normalization import chained
from exactnorm.onnx._graph import Array, Graph, attribute, is_large, subgraphs
from exactnorm.onnx._layers import (
    LayerStep,
    Unfit,
    batch_normalization,
    disguised,
    is_op,
    layer_of,
    least_opset,
    name_of,
    pads,
)
from exactnorm.onnx._verify import compare_models, differences


@dataclass
class _Chain:
    """A layer, and the steps before and behind it that can be parts of it."""

    layer: LayerStep
    before: list[tuple[onnx.NodeProto, Normalization]] = field(default_factory=list)
    after: list[tuple[onnx.NodeProto, Normalization]] = field(default_factory=list)
    passed: list[onnx.NodeProto] = field(default_factory=list)  # identities on the way
    flattening: onnx.NodeProto | None = None  # before the layer


def fold(
    model: onnx.ModelProto, inputs: Mapping[str, Array] | None = None, *, verify: bool = True
) -> tuple[onnx.ModelProto, FoldReport]:
    """A copy of a model without the batch normalizations that can be part of a layer, and a report.

    Understood are BatchNormalization of opset 7 and later, behind Conv, ConvTranspose (any groups), Gemm and MatMul, and before Conv
    without padding, Gemm and MatMul, with a Flatten between or not; several in a row; and Mul, Add and Sub with one constant for
    each channel behind such a layer. Weights and parameters are initializers or constants, of any floating-point dtype; an
    initializer that other steps use as well is copied. Coefficients are `exactnorm.fold`'s: exact, rounded once.

    inputs
        Arrays by name, for the comparison of both models; random ones by default, where the model's inputs are float tensors.
    verify
        Whether each folded layer is compared with the steps that it is made of, in float64 on random values, and both models with
        each other by ONNX Runtime, where that is installed.

    Steps in subgraphs (If, Loop, Scan) stay as they are. The given model is not changed.

    Models beyond 2 GB are not checked by onnx.

    Raises ValueError where onnx's checker refuses the model, and where the folded model's outputs differ by more than rounding explains, and are
    farther from the given model's in float64 than its own are.
    """
    check(model)
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = Graph(folded)
    report = FoldReport()
    # Before, Mul and Add had attributes of their own, and Dropout a mode.
    chains = _chains(graph) if graph.opset >= least_opset else []
    placed = {id(step) for chain in chains for step, _ in chain.before + chain.after}
    for node in graph.nodes:
        if is_op(node, "BatchNormalization") and id(node) not in placed:
            report.refused.append(RefusedNorm(name_of(node), _reason(graph, node)))
    report.refused += [RefusedNorm(name, reason) for name, reason in hidden(folded)]
    dtypes = {chain.layer.weight.dtype.name for chain in chains}
    for chain in chains:
        _fold_chain(graph, chain, report, verify)
    graph.finish()
    report.sort([name_of(node) for node in model.graph.node])
    check(folded)
    if verify:
        report.difference, report.errors = compare_models(model, folded, inputs, dtypes)
    return folded, report


def check(model: onnx.ModelProto) -> None:
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: is a {type(model).__name__}; expected an onnx.ModelProto, as onnx.load reads it")
    if is_large(model):
        return  # the checker wants all of it in one message
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"model: is not valid ONNX: {error}") from error


def hidden(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Normalizations that are no steps of the model's own graph."""
    for node in model.graph.node:
        yield from ((name, "it is in a subgraph") for graph in subgraphs(node) for name in _norms_in(graph.node))
    for function in model.functions:
        yield from ((f"{function.name}/{name}", "it is in a function of the model") for name in _norms_in(function.node))


def _norms_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        if is_op(node, "BatchNormalization"):
            yield name_of(node)
        for graph in subgraphs(node):
            yield from _norms_in(graph.node)


def _passes_on(node: onnx.NodeProto) -> bool:
    """Identity, and Dropout as it is in evaluation; its mask, and its training mode, are further inputs and outputs."""
    if is_op(node, "Identity"):
        return True
    has_mode = len(node.input) > 2 and bool(node.input[2])
    return is_op(node, "Dropout") and not has_mode and len([name for name in node.output if name]) == 1


def _chains(graph: Graph) -> list[_Chain]:
    chains: list[_Chain] = []
    taken: set[int] = set()
    for node in graph.nodes:
        try:
            layer = layer_of(graph, node)
        except Unfit:
            continue
        chain = _Chain(layer)
        _follow(graph, chain)
        taken.update(id(step) for step, _ in chain.after)
        chains.append(chain)
    for chain in chains:
        _go_back(graph, chain, taken)
    # An addition alone is a bias, and no normalization.
    return [
        chain
        for chain in chains
        if chain.before or any(not is_op(step, "Add", "Sub") for step, _ in chain.after)
    ]


def _follow(graph: Graph, chain: _Chain) -> None:
    """What is behind a layer, as far as it can be a part of it."""
    value = chain.layer.node.output[0]
    passed: list[onnx.NodeProto] = []
    while (node := graph.only_consumer(value)) is not None:
        norm = None
        if is_op(node, "BatchNormalization") and node.input[0] == value:
            try:
                norm = batch_normalization(graph, node)
            except Unfit:
                return
            if norm.channels != chain.layer.outputs or (chain.layer.has_channels_last and chain.layer.rank != 2):
                return
        elif _passes_on(node):
            passed.append(node)
        else:
            norm = disguised(graph, node, value, chain.layer)
            if norm is None:
                return
        if norm is not None:
            chain.after.append((node, norm))
            chain.passed += passed
            passed = []
        value = node.output[0]


def _go_back(graph: Graph, chain: _Chain, taken: set[int]) -> None:
    """What is before a layer."""
    layer = chain.layer
    if layer.kind == "conv_transpose" or (layer.kind == "conv" and pads(layer.node)):
        return
    if is_op(layer.node, "Gemm") and attribute(layer.node, "transA", 0):
        return
    value, channels, passed = layer.node.input[0], layer.inputs, list[onnx.NodeProto]()
    flattening: onnx.NodeProto | None = None
    while graph.uses[value] == 1 and (node := graph.producers.get(value)) is not None:
        if is_op(node, "BatchNormalization") and id(node) not in taken:
            try:
                norm = batch_normalization(graph, node)
            except Unfit:
                return
            is_fitting = channels % norm.channels == 0 if flattening is not None else channels == norm.channels
            has_axis = layer.kind == "conv" or flattening is not None or graph.ranks.get(node.output[0]) == 2
            if not (is_fitting and has_axis) or (chain.before and chain.before[0][1].channels != norm.channels):
                return
            chain.before.insert(0, (node, norm))
            chain.passed += passed
            chain.flattening = flattening
            passed = []
            taken.add(id(node))
        elif is_op(node, "Flatten") and layer.kind == "linear" and flattening is None and not chain.before:
            if attribute(node, "axis", 1) != 1:
                return
            flattening = node
        elif _passes_on(node):
            passed.append(node)
        else:
            return
        value = node.input[0]


def _fold_chain(graph: Graph, chain: _Chain, report: FoldReport, verify: bool) -> None:
    layer, node = chain.layer, chain.layer.node
    nodes = [step for step, _ in chain.before + chain.after]
    before, after = (chained(norm for _, norm in steps) for steps in (chain.before, chain.after))
    if before is not None and chain.flattening is not None:
        before = before.repeated(layer.inputs // before.channels)
    try:
        folded = exactnorm.fold(
            np.ascontiguousarray(layer.weight),
            None if layer.bias is None else np.ascontiguousarray(layer.bias),
            before=before,
            after=after,
            layer=layer.kind,
            groups=layer.groups,
        )
        bound, difference = differences(graph, chain, folded) if verify else (float("nan"), float("nan"))
    except ValueError as error:
        report.refused += [RefusedNorm(name_of(step), str(error)) for step in nodes if is_op(step, "BatchNormalization")]
        return
    for step, norm in chain.before + chain.after:
        position: Any = "before" if any(step is other for other, _ in chain.before) else "after"
        report.folded.append(
            FoldedNorm(name_of(step), name_of(node), position, float(np.abs(norm.scale).max()), bound, difference)
        )
    _rewrite(graph, chain, folded, nodes)


def _rewrite(graph: Graph, chain: _Chain, folded: FoldedLayer, nodes: list[onnx.NodeProto]) -> None:
    layer, node = chain.layer, chain.layer.node
    new_output = chain.after[-1][0].output[0] if chain.after else node.output[0]
    for step in (*nodes, *chain.passed):
        graph.remove(step)
    if chain.before:
        source = chain.before[0][0].input[0]
        if chain.flattening is not None:
            chain.flattening.input[0] = source
            source = chain.flattening.output[0]
        node.input[0] = source
    weight = folded.weight.T if layer.is_transposed else folded.weight
    node.input[1] = graph.new_constant(node.input[1], weight)
    has_bias = bool(folded.bias.any()) or layer.bias is not None
    if is_op(node, "MatMul"):
        if has_bias:
            bias = graph.new_constant(f"{node.input[1]}_bias", folded.bias)
            inner = graph.new_name(f"{name_of(node)}_product")
            addition = onnx.helper.make_node("Add", [inner, bias], [new_output], name=f"{name_of(node)}_bias")
            node.output[0] = inner
            graph.insert_after(node, addition)
        else:
            node.output[0] = new_output
    else:
        if has_bias:
            name = node.input[2] if len(node.input) > 2 and node.input[2] else f"{node.input[1]}_bias"
            del node.input[2:]
            node.input.append(graph.new_constant(name, folded.bias))
            # Of a Gemm: without a bias it had no meaning.
            factors = [index for index, found in enumerate(node.attribute) if found.name == "beta"]
            for index in factors:
                del node.attribute[index]
        node.output[0] = new_output


def _reason(graph: Graph, node: onnx.NodeProto) -> str:
    """Why a BatchNormalization stands where nothing takes it."""
    try:
        norm = batch_normalization(graph, node)
    except Unfit as reason:
        return str(reason)
    producer = graph.producers.get(node.input[0])
    uses = graph.uses[node.input[0]]
    if producer is None:
        first = "its input is the model's"
    elif uses != 1:
        first = f"its input has {uses} uses"
    else:
        first = f"its input comes from {producer.op_type}"
        try:
            layer = layer_of(graph, producer)
            if layer.outputs != norm.channels:
                first = f"{name_of(producer)} has {layer.outputs} outputs, and {norm.channels} channels are normalized"
            elif layer.rank != 2 and layer.has_channels_last:
                first = f"{name_of(producer)} is over the last axis, and the normalization over the second"
        except Unfit as reason:
            if is_op(producer, "Conv", "ConvTranspose", "Gemm", "MatMul"):
                first = str(reason)
    user = graph.only_consumer(node.output[0])
    if user is None:
        return f"{first}; its output has {graph.uses[node.output[0]]} uses, or is the model's"
    if is_op(user, "Conv") and pads(user):
        return f"{first}; {name_of(user)} pads its output with zeros (exactnorm.fold has pad values for it)"
    if is_op(user, "ConvTranspose"):
        return f"{first}; the outputs of {name_of(user)} meet different numbers of its taps"
    return f"{first}; its output goes to {user.op_type}"
