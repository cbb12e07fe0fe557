"""The peers that live in Python, each as its users call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from exactnorm_calls import Memory, NumpyMemory, Tensors
from problems import Case, Epsilon, Problem


@dataclass(frozen=True)
class Prepared:
    """A peer, ready for one case: what is timed, and a call that returns its results by name."""

    call: Callable[[], object]
    results: Callable[[], dict[str, np.ndarray]]


class TorchMemory:
    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype))

    def address(self, tensor: Any) -> int:
        return tensor.data_ptr()

    def as_array(self, tensor: Any) -> np.ndarray:
        return tensor.detach().numpy()


class PyTorch:
    """torch.nn.BatchNorm1d and 2d, eager."""

    name = "PyTorch"
    variant = "eager"
    returns_new_arrays = True
    epsilon = Epsilon()
    tracks_running_statistics = True

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        self.version: str = self._torch.__version__
        self.isa: str = self._torch.backends.cpu.get_cpu_capability()
        self.memory: Memory = TorchMemory(self._torch)

    def supports(self, case: Case) -> bool:
        return True

    def prepare(self, problem: Problem, tensors: Tensors) -> Prepared:
        case = problem.case
        self._torch.set_num_threads(case.threads)
        self._torch.set_grad_enabled(case.operation != "inference")
        module = self._module(problem)
        forward = self._forward(module)
        x = tensors.inputs["x"].permute(case.axes_as_shape)
        dy = tensors.inputs["dy"].permute(case.axes_as_shape)
        if case.operation in ("training", "inference"):
            return Prepared(lambda: forward(x), lambda: {"y": self._in_memory_order(case, forward(x))})
        x.requires_grad_()
        if case.operation == "backward":
            return self._prepare_backward(case, forward(x), (x, module.weight, module.bias), dy)
        return self._prepare_training_and_backward(case, forward, module, x, dy)

    def _forward(self, module: Any) -> Callable[[Any], Any]:
        return module

    def _module(self, problem: Problem) -> Any:
        torch = self._torch
        case = problem.case
        module_type = torch.nn.BatchNorm2d if len(case.shape) == 4 else torch.nn.BatchNorm1d
        module = module_type(case.channels, eps=self.epsilon.value, dtype=getattr(torch, case.dtype))
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(problem.gamma))
            module.bias.copy_(torch.from_numpy(problem.beta))
            module.running_mean.copy_(torch.from_numpy(problem.running_mean))
            module.running_var.copy_(torch.from_numpy(problem.running_variance))
        return module.train(case.operation != "inference")

    def _in_memory_order(self, case: Case, tensor: Any) -> np.ndarray:
        return tensor.detach().permute(case.axes_as_memory).numpy()

    def _prepare_backward(self, case: Case, y: Any, leaves: tuple[Any, Any, Any], dy: Any) -> Prepared:
        def call() -> tuple[Any, ...]:
            return self._torch.autograd.grad(y, leaves, dy, retain_graph=True)

        def results() -> dict[str, np.ndarray]:
            dx, dgamma, dbeta = call()
            return {"dx": self._in_memory_order(case, dx), "dgamma": dgamma.numpy(), "dbeta": dbeta.numpy()}

        return Prepared(call, results)

    def _prepare_training_and_backward(
        self, case: Case, forward: Callable[[Any], Any], module: Any, x: Any, dy: Any
    ) -> Prepared:
        def forget_gradients() -> None:
            """As an optimizer's zero_grad does; without it, the next backward pass would add to them."""
            x.grad = module.weight.grad = module.bias.grad = None

        def call() -> None:
            forward(x).backward(dy)
            forget_gradients()

        def results() -> dict[str, np.ndarray]:
            y = forward(x)
            y.backward(dy)
            found = {
                "y": self._in_memory_order(case, y),
                "dx": self._in_memory_order(case, x.grad),
                "dgamma": module.weight.grad.numpy(),
                "dbeta": module.bias.grad.numpy(),
            }
            forget_gradients()
            return found

        return Prepared(call, results)


class CompiledPyTorch(PyTorch):
    """The same modules through torch.compile, which needs a C++ compiler and some seconds for each case."""

    variant = "torch.compile"

    def supports(self, case: Case) -> bool:
        # What it compiles cannot run backward twice from one forward pass.
        return case.operation != "backward"

    def _forward(self, module: Any) -> Callable[[Any], Any]:
        # Without this, a second shape would be compiled for any shape, and be slower.
        self._torch.compiler.reset()
        return self._torch.compile(module, dynamic=False)


class PyTorchKernels(PyTorch):
    """The operators that those modules end in, without modules and without autograd; the forward one writes to an
    output that exists."""

    variant = "kernels alone"

    def supports(self, case: Case) -> bool:
        return case.operation != "training+backward"

    def prepare(self, problem: Problem, tensors: Tensors) -> Prepared:
        case = problem.case
        torch = self._torch
        torch.set_num_threads(case.threads)
        torch.set_grad_enabled(False)
        module = self._module(problem)
        parameters = (module.weight, module.bias, module.running_mean, module.running_var)
        x, dy, y = (
            tensor.permute(case.axes_as_shape)
            # Not the tensors' own output, where Exactnorm writes: what one of the two left out would be the other's.
            for tensor in (tensors.inputs["x"], tensors.inputs["dy"], tensors.fresh("y").zero_())
        )
        mean, inverse_deviation = torch.empty(case.channels), torch.empty(case.channels)
        saved = {"out": y, "save_mean": mean, "save_invstd": inverse_deviation}
        is_training = case.operation != "inference"

        def forward() -> Any:
            torch.ops.aten.native_batch_norm.out(
                x, *parameters, is_training, module.momentum, self.epsilon.value, **saved
            )
            return y

        if case.operation != "backward":
            return Prepared(forward, lambda: {"y": self._in_memory_order(case, forward())})
        forward()
        backward = torch.ops.aten.native_batch_norm_backward.default
        weight, _, *running = parameters
        wanted = [True, True, True]

        def call() -> tuple[Any, ...]:
            return backward(dy, x, weight, *running, mean, inverse_deviation, True, self.epsilon.value, wanted)

        def results() -> dict[str, np.ndarray]:
            dx, dgamma, dbeta = call()
            return {"dx": self._in_memory_order(case, dx), "dgamma": dgamma.numpy(), "dbeta": dbeta.numpy()}

        return Prepared(call, results)


class NotebookNumpy:
    """Batch normalization as a notebook writes it, on (h, w, c, m) and (hidden, m)."""

    name = "NumPy"
    variant = "notebook"
    isa = None
    returns_new_arrays = True
    version = np.__version__
    epsilon = Epsilon(1e-8, beside_deviation=True)
    tracks_running_statistics = False
    memory: Memory = NumpyMemory()

    def supports(self, case: Case) -> bool:
        return case.operation == "training" and case.layout in ("hwcn", "cn")

    def prepare(self, problem: Problem, tensors: Tensors) -> Prepared:
        function = self._batch_norm_2d if problem.case.layout == "hwcn" else self._batch_norm
        # Broadcasts to (h, w, c, m) just as (1, 1, c, 1) does.
        gamma = problem.gamma.reshape(-1, 1)
        beta = problem.beta.reshape(-1, 1)
        z = tensors.inputs["x"]
        return Prepared(lambda: function(z, gamma, beta), lambda: {"y": function(z, gamma, beta)})

    @staticmethod
    def _batch_norm_2d(z: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        mean = np.mean(z, axis=(0, 1, 3), keepdims=True)
        deviation = np.std(z, axis=(0, 1, 3), keepdims=True)
        normalized = (z - mean) / (deviation + 1e-8)
        return gamma * normalized + beta

    @staticmethod
    def _batch_norm(z: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        mean = np.mean(z, axis=1, keepdims=True)
        deviation = np.std(z, axis=1, keepdims=True)
        normalized = (z - mean) / (deviation + 1e-8)
        return gamma * normalized + beta


class OnnxRuntime:
    """A model of one BatchNormalization node, with input and output bound to memory that exists."""

    name = "ONNX Runtime"
    variant = "CPUExecutionProvider, IO binding"
    isa = None
    returns_new_arrays = False
    epsilon = Epsilon()
    tracks_running_statistics = False
    memory: Memory = NumpyMemory()

    def __init__(self) -> None:
        self._onnx = importlib.import_module("onnx")
        self._runtime = importlib.import_module("onnxruntime")
        self.version: str = self._runtime.__version__

    def supports(self, case: Case) -> bool:
        return case.operation == "inference" and case.layout == "nchw"

    def prepare(self, problem: Problem, tensors: Tensors) -> Prepared:
        case = problem.case
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = case.threads
        model = self._model(problem).SerializeToString()
        session = self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        y = np.zeros(case.shape, case.dtype)
        x = tensors.inputs["x"]
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, y.dtype, y.shape, y.ctypes.data)

        def call() -> None:
            session.run_with_iobinding(binding)

        def results() -> dict[str, np.ndarray]:
            call()
            return {"y": y}

        return Prepared(call, results)

    def _model(self, problem: Problem) -> Any:
        helper = self._onnx.helper
        case = problem.case
        element_type = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
        parameters = {
            "scale": problem.gamma,
            "bias": problem.beta,
            "mean": problem.running_mean,
            "variance": problem.running_variance,
        }
        node = helper.make_node("BatchNormalization", ["x", *parameters], ["y"], epsilon=self.epsilon.value)
        tensors = [self._onnx.numpy_helper.from_array(array, name) for name, array in parameters.items()]
        x, y = (helper.make_tensor_value_info(name, element_type, case.shape) for name in ("x", "y"))
        graph = helper.make_graph([node], "batch_normalization", [x], [y], tensors)
        opset = helper.make_opsetid("", 15)
        # The oldest version of the file format that has this opset: newer than the runtime's is refused.
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def description(peer: Any) -> dict[str, Any]:
    fields = ("name", "version", "variant", "isa", "returns_new_arrays")
    return {field: getattr(peer, field) for field in fields}


PEERS: dict[str, Callable[[], Any]] = {
    "pytorch": PyTorch,
    "compile": CompiledPyTorch,
    "kernels": PyTorchKernels,
    "numpy": NotebookNumpy,
    "onnxruntime": OnnxRuntime,
}
