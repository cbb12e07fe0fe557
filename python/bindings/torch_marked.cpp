#include "torch_marked.h"

#include <cstdint>
#include <utility>

namespace exactnorm::python::torch {

namespace {

namespace nb = nanobind;

thread_local MarkedCall* marked_call = nullptr;

// The first of an operator's results, a tuple.
PyObject* first_of(PyObject* results) {
  PyObject* const first = PyTuple_Check(results) ? Py_XNewRef(PyTuple_GetItem(results, 0)) : nullptr;
  if (first == nullptr && PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_TypeError, "expected a tuple of tensors");
  Py_DECREF(results);
  return first;
}

// marked_call(counter's address or 0, activation's number, slope, function, arguments...): the first result of the
// function, with the counter counted up, where it has one; None where the kernel declined the arguments, with nothing
// done. The mark does not outlive the call, whatever happens in it.
PyObject* call_marked(PyObject* /*module*/, PyObject* const* arguments, Py_ssize_t count) {
  constexpr Py_ssize_t own = 4;
  if (count < own) {
    PyErr_SetString(PyExc_TypeError, "expected a counter's address, an activation, its slope and a function");
    return nullptr;
  }
  auto* const counter = static_cast<std::int64_t*>(PyLong_AsVoidPtr(arguments[0]));
  const long activation = PyLong_AsLong(arguments[1]);
  const double slope = PyFloat_AsDouble(arguments[2]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  MarkedCall call = {{true, static_cast<Activation>(activation), slope}, false, false, {}};
  marked_call = &call;
  PyObject* const results =
      PyObject_Vectorcall(arguments[3], arguments + own, static_cast<std::size_t>(count - own), nullptr);
  marked_call = nullptr;
  if (results == nullptr) {
    if (call.is_declined) {
      PyErr_Clear();
      Py_RETURN_NONE;
    }
    if (!call.refusal.empty()) PyErr_SetString(PyExc_ValueError, call.refusal.c_str());
    return nullptr;
  }
  if (!call.is_computed && call.step.activation != Activation::none) {
    // Another kernel's results, without the activation.
    Py_DECREF(results);
    Py_RETURN_NONE;
  }
  if (counter != nullptr) ++*counter;
  return first_of(results);
}

}  // namespace

MarkedCall* take_marked_call() noexcept { return std::exchange(marked_call, nullptr); }

void bind_torch_marked(nb::module_& module) {
  static PyMethodDef definition = {"torch_marked_call",
                                   reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_marked)),
                                   METH_FASTCALL, nullptr};
  // Not by nanobind, whose own calls of such arguments cost more than the call itself.
  module.def("torch_marked_call",
             [] { return nb::steal<nb::object>(PyCFunction_NewEx(&definition, nullptr, nullptr)); });
}

}  // namespace exactnorm::python::torch
