#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace exactnorm {

/// A function that is called while its caller waits: a reference to it, where std::function would make a copy.
template <typename Signature>
class FunctionView;

template <typename Result, typename... Arguments>
class FunctionView<Result(Arguments...)> {
 public:
  template <typename Function>
  requires(!std::is_same_v<std::remove_cvref_t<Function>, FunctionView> && std::is_object_v<Function>)
      FunctionView(const Function& function)  // NOLINT(google-explicit-constructor): stands for the function
      : function_(std::addressof(function)), call_([](const void* called, Arguments... arguments) -> Result {
          return (*static_cast<const Function*>(called))(std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const { return call_(function_, std::forward<Arguments>(arguments)...); }

 private:
  const void* function_;
  Result (*call_)(const void*, Arguments...);
};

}  // namespace exactnorm
