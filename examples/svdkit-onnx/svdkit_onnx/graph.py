"""Formulas as an ONNX model, and onnxruntime to run it: all in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto, helper, numpy_helper

from svdkit.backend import Host

from .formula import Formula, apply

OPSET = 20
"""The first with Gelu."""
IR_VERSION = 9
OWN = frozenset({"MultiHeadAttention"})
"""Operators that onnxruntime has of its own."""
LARGE = 1024
"""Bytes from which on a constant is handed over beside the model, which can be of 2 GB at most."""


def model_of(inputs: Sequence[Formula], outputs: Sequence[Formula]) -> tuple[ModelProto, dict[str, Host]]:
    """An ONNX model that computes outputs of inputs, named `x0, x1, …` and `y0, y1, …`.

    Args:
        inputs: all variables that the outputs are made of, and perhaps others.
        outputs: any formulas.

    Returns:
        the model, and its large constants by name, which it refers to as external.
    """
    results = [apply("Identity", output, shape=output.shape) for output in outputs]
    formulas = parts_of(results)
    names = {formula: f"v{i}" for i, formula in enumerate(formulas)}
    names |= {x: f"x{i}" for i, x in enumerate(inputs)} | {y: f"y{i}" for i, y in enumerate(results)}
    constants = {names[f]: f.values for f in formulas if f.values is not None}
    large = {name: values for name, values in constants.items() if values.nbytes >= LARGE}
    graph = helper.make_graph(
        [_node(formula, names) for formula in formulas if formula.op],
        "svdkit",
        [_info(x, names) for x in inputs],
        [_info(y, names) for y in results],
        [
            _external(name, values) if name in large else numpy_helper.from_array(values, name)
            for name, values in constants.items()
        ],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), large


def parts_of(outputs: Sequence[Formula]) -> list[Formula]:
    """All that outputs are made of, operands first."""
    found: dict[int, Formula] = {}
    waiting = list(outputs)
    while waiting:
        formula = waiting.pop()
        if formula.order not in found:
            found[formula.order] = formula
            waiting += formula.operands
    return [found[order] for order in sorted(found)]


def _node(formula: Formula, names: dict[Formula, str]) -> NodeProto:
    return helper.make_node(
        formula.op,
        [names[operand] for operand in formula.operands],
        [names[formula]],
        name=names[formula],
        domain="com.microsoft" if formula.op in OWN else "",
        **formula.attributes,
    )


def _info(formula: Formula, names: dict[Formula, str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(names[formula], TensorProto.FLOAT, formula.shape)


def _external(name: str, values: Host) -> TensorProto:
    return TensorProto(
        name=name,
        dims=values.shape,
        data_type=helper.np_dtype_to_tensor_dtype(values.dtype),
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key="location", value="memory")],
    )


class Session:
    """Formulas that onnxruntime has made ready to be computed, on the CPU.

    Args:
        inputs: variables.
        outputs: what is computed of them.
        once: whether it is not worth while to optimise.
    """

    def __init__(self, inputs: Sequence[Formula], outputs: Sequence[Formula], *, once: bool = False) -> None:
        model, large = model_of(inputs, outputs)
        options = onnxruntime.SessionOptions()
        # Several sessions of one network refer to the same constants; these are not copied.
        self._constants = [onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in large.values()]
        options.add_external_initializers(list(large), self._constants)
        # Threads that wait for the next step by spinning would keep all cores from the rest of the pipeline.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if once:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, *arrays: Host) -> list[Host]:
        """The outputs, given float32 arrays for the inputs."""
        results: list[Host] = self._session.run(None, {f"x{i}": array for i, array in enumerate(arrays)})
        return results


def evaluate(formulas: Sequence[Formula]) -> list[Host]:
    """The values of formulas without variables."""
    return [np.asarray(values) for values in Session([], formulas, once=True).run()]
