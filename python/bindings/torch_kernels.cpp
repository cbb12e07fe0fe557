// PyTorch's own operators of batch normalization, native_batch_norm and native_batch_norm_backward, on the CPU: what
// torch.nn.functional.batch_norm reaches in eager mode, whatever calls it.

#include "torch_kernels.h"

#include <nanobind/stl/pair.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "tensor_arguments.h"
#include "torch_abi.h"
#include "torch_layout.h"
#include "torch_marked.h"
#include "torch_plans.h"
#include "torch_statistics.h"
#include "traverse/floating_point.h"

namespace exactnorm::python::torch {

namespace {

namespace nb = nanobind;

// Whether every call is computed here; the kernels stay installed where it is not, and pass all calls on.
std::atomic<bool> is_enabled = false;
std::atomic<std::uint64_t> computed_calls = 0;
std::atomic<std::uint64_t> passed_calls = 0;

int threads() {
  std::uint32_t count = 1;
  check(functions().threads(&count), "the number of threads");
  return static_cast<int>(count);
}

Options options_of(double epsilon, const ModuleStep& step) {
  Options options = tensor_options(epsilon, threads());
  options.activation = step.activation;
  options.slope = step.slope;
  return options;
}

std::optional<TensorView> view_of(const Tensor& tensor) {
  return tensor.is_defined() ? std::optional(tensor.view()) : std::nullopt;
}

// Of a tensor that may be x; none where the library does not know its dtype or rank.
std::optional<TensorView> view_of_input(const Tensor& x) {
  if (!x.dtype() || x.rank() < 2 || x.rank() > static_cast<std::int64_t>(maximum_rank)) return std::nullopt;
  return x.view();
}

// What both kernels ask of their tensors; the rest goes to PyTorch. Parameters have x's dtype or, beside 16 bits,
// float32, which is one for all of them.
class Input {
 public:
  Input(const Tensor& x, std::initializer_list<const Tensor*> parameters, std::optional<DType> common = std::nullopt) {
    const std::optional<TensorView> view = view_of_input(x);
    if (!view || element_count(view->shape) == 0) return;
    view_ = *view;
    const DType dtype = view_.dtype;
    const auto fits = [&](std::optional<DType> found) {
      return found == dtype || (found == DType::float32 && size_of(dtype) == 2);
    };
    if (common && !fits(common)) return;
    for (const Tensor* const parameter : parameters) {
      if (!parameter->is_defined()) continue;
      const std::optional<DType> found = parameter->dtype();
      if (!fits(found) || (common && found != common)) return;
      if (parameter->rank() != 1) return;
      const MutableTensorView& of_parameter = parameter->mutable_view();
      if (of_parameter.shape[0] != view_.shape[1]) return;
      are_parameters_contiguous_ &= view_.shape[1] == 1 || of_parameter.strides[0] == 1;
      common = found;
    }
    parameters_ = common.value_or(dtype);
    is_taken_ = true;
  }

  [[nodiscard]] bool is_taken() const noexcept { return is_taken_; }
  [[nodiscard]] const TensorView& view() const noexcept { return view_; }
  [[nodiscard]] DType parameters() const noexcept { return parameters_; }
  /// Tensors of x's shape for y and dx, laid out as PyTorch's, or, in a converted module, as x is.
  [[nodiscard]] Tensor new_output(bool keeps_layout) const {
    return like_x(keeps_layout ? kept_strides(view_) : output_strides(view_, are_parameters_contiguous_));
  }
  [[nodiscard]] Tensor new_gradient(bool keeps_layout, const TensorView& dy) const {
    return like_x(keeps_layout ? kept_strides(view_) : gradient_strides(view_, dy));
  }

 private:
  [[nodiscard]] Tensor like_x(const IndexList& strides) const { return empty(view_.shape, strides, view_.dtype); }

  bool is_taken_ = false;
  bool are_parameters_contiguous_ = true;
  TensorView view_;
  DType parameters_ = DType::float32;
};

struct ForwardArguments {
  // In the order of the operator's schema.
  explicit ForwardArguments(StackValue* stack)
      : x(tensor_from(stack[0])),
        weight(optional_tensor_from(stack[1])),
        bias(optional_tensor_from(stack[2])),
        running_mean(optional_tensor_from(stack[3])),
        running_variance(optional_tensor_from(stack[4])),
        is_training(number_from<bool>(stack[5])),
        momentum(number_from<double>(stack[6])),
        epsilon(number_from<double>(stack[7])) {}

  Tensor x, weight, bias, running_mean, running_variance;
  bool is_training;
  double momentum;
  double epsilon;
};

// PyTorch's kernel, by an operator whose own kernel is left as it is. Results take their places on the stack.
void pass_on(const ForwardArguments& given, StackValue* stack) {
  ++passed_calls;
  std::array<StackValue, 8> call = {to_stack(given.x), to_optional(given.weight), to_optional(given.bias)};
  std::size_t size = 3;
  const bool has_running = given.running_mean.is_defined() || given.running_variance.is_defined();
  if (has_running) {
    call[size++] = to_stack(given.running_mean);
    call[size++] = to_stack(given.running_variance);
  }
  call[size++] = to_stack(given.is_training);
  call[size++] = to_stack(given.momentum);
  call[size++] = to_stack(given.epsilon);
  check(
      functions().call("aten::_native_batch_norm_legit", has_running ? "" : "no_stats", call.data(), interface_version),
      "this call of native_batch_norm");
  std::copy_n(call.data(), 3, stack);
}

// Whether running statistics take in such a batch: RunningStatistics::update refuses others.
bool can_update(const ForwardArguments& given, const Input& input) {
  const TensorView& x = input.view();
  return given.momentum >= 0 && given.momentum <= 1 && element_count(x.shape) > x.shape[1];
}

// What running statistics take in.
Statistics batch_of(const StatisticsMemory& memory, Index count) {
  Statistics batch;
  batch.count = count;
  const MutableStatisticsView rows = memory.rows();
  batch.mean.assign(rows.mean, rows.mean + memory.channels());
  batch.variance.assign(rows.variance, rows.variance + memory.channels());
  return batch;
}

// Whether the library takes it; results take their places on the stack then.
bool compute(const ForwardArguments& given, const ModuleStep& step, StackValue* stack) {
  const Input input(given.x, {&given.weight, &given.bias, &given.running_mean, &given.running_variance});
  const bool has_running = given.running_mean.is_defined();
  if (!input.is_taken() || has_running != given.running_variance.is_defined()) return false;
  if (!(given.is_training ? !has_running || can_update(given, input) : has_running)) return false;
  const DefaultFloatingPoint default_floating_point;
  const Options options = options_of(given.epsilon, step);
  const Affine affine = {view_of(given.weight), view_of(given.bias)};
  const Tensor y = input.new_output(step.keeps_layout);
  if (!given.is_training) {
    inference(input.view(), given_statistics(given.running_mean.view(), given.running_variance.view(), options),
              y.mutable_view(), affine, options);
    stack[0] = to_stack(y);
    for (int i = 1; i < 3; ++i) stack[i] = to_stack(empty({0}, {1}, input.parameters()));
    return true;
  }
  StatisticsMemory memory(input.view().shape[1], input.parameters(), step, given.bias);
  const Index count = run_training(input.view(), y.mutable_view(), affine, options, memory.rows());
  if (has_running) {
    update_running(batch_of(memory, count), given.running_mean.mutable_view(), given.running_variance.mutable_view(),
                   given.momentum);
  }
  const SavedStatistics saved = memory.finish(count);
  stack[0] = to_stack(y);
  stack[1] = to_stack(saved.mean);
  stack[2] = to_stack(saved.inverse_deviation);
  return true;
}

void forward(StackValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  const ForwardArguments given(stack);
  MarkedCall* const marked = take_marked_call();
  if (marked != nullptr || is_enabled.load(std::memory_order_relaxed)) {
    try {
      if (compute(given, marked != nullptr ? marked->step : ModuleStep(), stack)) {
        ++computed_calls;
        if (marked != nullptr) marked->is_computed = true;
        return;
      }
    } catch (const Error& error) {
      if (marked != nullptr) {
        marked->refusal = error.what();
        throw;
      }
      // What the library refuses, PyTorch may have an answer to.
    }
  }
  if (marked != nullptr) {
    marked->is_declined = true;
    throw std::runtime_error("these arguments are not for this kernel");
  }
  pass_on(given, stack);
}

struct BackwardArguments {
  explicit BackwardArguments(StackValue* stack)
      : dy(tensor_from(stack[0])),
        x(tensor_from(stack[1])),
        weight(optional_tensor_from(stack[2])),
        running_mean(optional_tensor_from(stack[3])),
        running_variance(optional_tensor_from(stack[4])),
        saved_mean(optional_tensor_from(stack[5])),
        saved_inverse_deviation(optional_tensor_from(stack[6])),
        is_training(number_from<bool>(stack[7])),
        epsilon(number_from<double>(stack[8])),
        wanted(flags_from(stack[9])) {}

  Tensor dy, x, weight, running_mean, running_variance, saved_mean, saved_inverse_deviation;
  bool is_training;
  double epsilon;
  std::vector<bool> wanted;
};

void pass_on(const BackwardArguments& given, StackValue* stack) {
  ++passed_calls;
  // batch_norm_backward has the same kernel behind it, a weight that is not optional, and a reserve for cuDNN.
  std::array<StackValue, 11> call = {to_stack(given.dy),
                                     to_stack(given.x),
                                     to_stack(given.weight),
                                     to_optional(given.running_mean),
                                     to_optional(given.running_variance),
                                     to_optional(given.saved_mean),
                                     to_optional(given.saved_inverse_deviation),
                                     to_stack(given.is_training),
                                     to_stack(given.epsilon),
                                     to_stack(given.wanted),
                                     to_stack(empty({0}, {1}, DType::float32))};
  check(functions().call("aten::batch_norm_backward", "", call.data(), interface_version),
        "this call of native_batch_norm_backward");
  std::copy_n(call.data(), 3, stack);
}

// The statistics that a backward pass is of where the forward pass left none, or they are lost (hooks of saved tensors
// copy what they save), and calls are computed here: the running ones, or those of x again.
std::optional<Statistics> statistics_again(const BackwardArguments& given, const Input& input, const Options& options) {
  if (!is_enabled.load(std::memory_order_relaxed)) return std::nullopt;
  if (!given.is_training) {
    if (!given.running_mean.is_defined() || !given.running_variance.is_defined()) return std::nullopt;
    return given_statistics(given.running_mean.view(), given.running_variance.view(), options);
  }
  if (!given.saved_mean.is_defined()) return std::nullopt;
  PartialSums sums(input.view().shape[1], PartialSums::Kind::moments, range_for(input.view().dtype));
  accumulate(sums, input.view(), options);
  return normalizing_statistics(sums, options);
}

bool compute(const BackwardArguments& given, std::optional<Saved> saved, StackValue* stack) {
  // The forward pass had parameters of one dtype, of which backward passes see some alone.
  const bool has_saved = given.is_training && given.saved_mean.is_defined();
  const std::optional<DType> of_parameters = has_saved ? given.saved_mean.dtype() : std::nullopt;
  const Input input(given.x, {&given.weight, &given.running_mean, &given.running_variance}, of_parameters);
  if (!input.is_taken() || given.dy.dtype() != input.view().dtype || given.wanted.size() != 3) return false;
  const TensorView dy = given.dy.view();
  if (!(dy.shape == input.view().shape)) return false;
  const DefaultFloatingPoint default_floating_point;
  std::optional<Statistics> again;
  if (!saved) {
    again = statistics_again(given, input, options_of(given.epsilon, {}));
    if (!again) return false;
    saved = Saved{view(*again), again->count, {}, {}};
  }
  const Options options = options_of(given.epsilon, saved->step);
  const auto parameter = [&](bool is_wanted) {
    return is_wanted ? empty({input.view().shape[1]}, {1}, input.parameters()) : Tensor();
  };
  const std::array<Tensor, 3> results = {given.wanted[0] ? input.new_gradient(saved->step.keeps_layout, dy) : Tensor(),
                                         parameter(given.wanted[1]), parameter(given.wanted[2])};
  Gradients gradients;
  if (given.wanted[0]) gradients.dx = results[0].mutable_view();
  if (given.wanted[1]) gradients.dgamma = results[1].mutable_view();
  if (given.wanted[2]) gradients.dbeta = results[2].mutable_view();
  run_backward(dy, input.view(), *saved, {view_of(given.weight), saved->bias}, gradients, options,
               given.is_training ? BackwardKind::training : BackwardKind::frozen);
  for (std::size_t i = 0; i < results.size(); ++i) stack[i] = to_stack(results[i]);
  return true;
}

[[noreturn]] void refuse_derivatives() {
  throw std::runtime_error(
      "a layer with an activation is asked for gradients of its gradients, or for transforms of them: set its "
      "attribute "
      "twice_differentiable before the forward pass, as exactnorm.torch.fuse(model, twice_differentiable=True) does");
}

void backward_kernel(StackValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  const BackwardArguments given(stack);
  // Also of a call that was computed here before all others were not any more.
  std::optional<Saved> saved;
  const std::optional<TensorView> x = view_of_input(given.x);
  if (given.is_training && given.saved_mean.is_defined() && x) {
    const Index channels = x->shape[1];
    saved = load(given.saved_mean, channels);
    // A batching rule's copies of what an activation has changed.
    if (!saved && given.saved_mean.dtype() && given.saved_mean.view().shape != IndexList{channels})
      refuse_derivatives();
  }
  // Of which PyTorch's kernel knows nothing, nor its derivative of this operator.
  const bool is_activated = saved && saved->step.activation != Activation::none;
  if (is_activated && functions().is_grad_enabled()) refuse_derivatives();
  try {
    if (compute(given, std::move(saved), stack)) {
      ++computed_calls;
      return;
    }
  } catch (const Error&) {
    if (is_activated) throw;
  }
  if (is_activated) throw std::runtime_error("the gradient of a layer with an activation is not a plain tensor");
  pass_on(given, stack);
}

struct DeleteLibrary {
  void operator()(LibraryObject* library) const noexcept { static_cast<void>(functions().delete_library(library)); }
};

std::mutex installation_mutex;
// Kernels stay replaced as long as it exists: in a process that does not put them back, for good.
std::unique_ptr<LibraryObject, DeleteLibrary>& installation() {
  static auto* const only = new std::unique_ptr<LibraryObject, DeleteLibrary>();
  return *only;
}

// Replaces the kernels, if they are not replaced already. PyTorch's table of kernels may be read by other threads while
// they compute: this is for a moment when none does.
void install() {
  const std::scoped_lock lock(installation_mutex);
  if (installation() != nullptr) return;
  LibraryObject* object = nullptr;
  check(functions().new_library("aten", "CPU", __FILE__, __LINE__, &object), "to replace kernels");
  std::unique_ptr<LibraryObject, DeleteLibrary> library(object);
  check(functions().replace(object, "native_batch_norm", forward, interface_version), "to replace native_batch_norm");
  check(functions().replace(object, "native_batch_norm_backward", backward_kernel, interface_version),
        "to replace native_batch_norm_backward");
  installation() = std::move(library);
}

// PyTorch's own kernels again, under the same condition.
void uninstall() {
  const std::scoped_lock lock(installation_mutex);
  installation().reset();
}

}  // namespace

void bind_torch_kernels(nb::module_& module) {
  module.def("torch_install", &install);
  module.def("torch_uninstall", &uninstall);
  module.def(
      "torch_enable", [](bool enable) { return is_enabled.exchange(enable); }, nb::arg("enable"));
  module.def("torch_is_enabled", [] { return is_enabled.load(); });
  module.def("torch_calls", [] { return std::pair(computed_calls.load(), passed_calls.load()); });
}

}  // namespace exactnorm::python::torch
