#include "chanas/codegen/codegen.h"

#include <fmt/core.h>

#include <cstdlib>
#include <mutex>
#include <sstream>

#include "chanas/base/file.h"
#include "chanas/codegen/entry_checks.h"
#include "chanas/codegen/lowering.h"
#include "chanas/codegen/pairs.h"
#include "chanas/codegen/prefetch.h"
#include "chanas/runtime/runtime.h"

namespace chanas {
namespace {

// Halide tells errors and warnings to one object per process. Its warning that an assertion always
// fails is the only sign of some broken schedules, so that it counts as an error.
class Reporter : public Halide::CompileTimeErrorReporter {
 public:
  void warning(const char* text) override {
    if (std::string_view(text).find("guaranteed to fail") != std::string_view::npos) error(text);
  }
  [[noreturn]] void error(const char* text) override { throw Halide::CompileError(text); }
};

// The module's edge: what Halide throws (no std::exception) becomes a status.
template <typename Body>
auto guarded(const ScheduleSpace& space, const Body& body) -> decltype(body()) {
  static Reporter reporter;
  static const bool installed = [] {
    Halide::set_custom_compile_time_error_reporter(&reporter);
    return true;
  }();
  (void)installed;
  std::string text;
  try {
    return body();
  } catch (const Halide::Error& error) {
    text = error.what();
  } catch (const std::exception& error) {
    text = error.what();
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return absl::InvalidArgumentError(fmt::format(
      "compiling {}: the compiler refused the schedule: {}", space.workload.describe(), text));
}

Halide::Target halide_target(const ScheduleSpace& space, bool assertions) {
  Halide::Target target(space.target.triple);
  target = target.with_feature(Halide::Target::NoBoundsQuery);
  return assertions ? target : target.with_feature(Halide::Target::NoAsserts);
}

Halide::Pipeline pipeline_of(const Lowering& lowering, const CompileOptions& options) {
  Halide::Pipeline pipeline(lowering.output());
  pipeline.add_custom_lowering_pass(new AddPairs);  // owned by the pipeline
  if (auto pass = lowering.prefetch(options.prefetch))
    pipeline.add_custom_lowering_pass(pass.release());
  return pipeline;
}

// What a kernel's callbacks need, passed through every call.
struct CallContext : Halide::JITUserContext {
  chanas_runtime* runtime = nullptr;
  std::string* error = nullptr;
};
CallContext* context_of(Halide::JITUserContext* context) {
  return static_cast<CallContext*>(context);
}

void* allocate(Halide::JITUserContext* context, size_t bytes) {
  if (chanas_runtime* runtime = context_of(context)->runtime)
    return chanas_scratch_alloc(runtime, bytes);
  return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
}

void release(Halide::JITUserContext* context, void* memory) {
  if (chanas_runtime* runtime = context_of(context)->runtime)
    chanas_scratch_free(runtime, memory);
  else
    std::free(memory);
}

using HalideTask = int (*)(Halide::JITUserContext*, int, uint8_t*);
struct Task {
  HalideTask run;
  uint8_t* closure;
};

int parallel_loop(Halide::JITUserContext* context, HalideTask run, int min, int size,
                  uint8_t* closure) {
  if (chanas_runtime* runtime = context_of(context)->runtime) {
    // The runtime hands an untyped context through.
    Task task = {run, closure};
    return chanas_par_for(
        runtime,
        [](void* untyped, int index, uint8_t* packed) {
          const Task* self = reinterpret_cast<const Task*>(packed);
          return self->run(static_cast<Halide::JITUserContext*>(untyped), index, self->closure);
        },
        context, min, size, reinterpret_cast<uint8_t*>(&task));
  }
  for (int i = min; i < min + size; ++i)
    if (const int code = run(context, i, closure); code != 0) return code;
  return 0;
}

void report(Halide::JITUserContext* context, const char* message) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (std::string* error = context_of(context)->error; error != nullptr && error->empty())
    *error = message;
}

// A flat float buffer as Halide sees it.
struct FlatBuffer {
  explicit FlatBuffer(int64_t size) {
    dimension = {0, static_cast<int32_t>(size), 1, 0};
    buffer.type = halide_type_t(halide_type_float, 32);
    buffer.dimensions = 1;
    buffer.dim = &dimension;
  }
  halide_dimension_t dimension;
  halide_buffer_t buffer = {};
};

class HalideKernel : public JitKernel {
 public:
  HalideKernel(const ScheduleSpace& space, const Schedule& schedule, Halide::Callable callable,
               int assertions, chanas_runtime* runtime)
      : callable_(std::move(callable)), assertions_(assertions) {
    const Graph& graph = space.workload.graph;
    const std::vector<int> inputs = graph.input_ops();
    buffers_.reserve(inputs.size() + 2);
    for (int input : inputs) buffers_.emplace_back(graph.ops[input].shape.elements());
    buffers_.emplace_back(packing(space, schedule).size);
    buffers_.emplace_back(graph.output().shape.elements());
    context_.runtime = runtime;
    context_.handlers.custom_malloc = allocate;
    context_.handlers.custom_free = release;
    context_.handlers.custom_do_par_for = parallel_loop;
    context_.handlers.custom_error = report;
    context_pointer_ = &context_;
    arguments_.push_back(&context_pointer_);
    for (FlatBuffer& flat : buffers_) {
      flat.buffer.dim = &flat.dimension;
      arguments_.push_back(&flat.buffer);
    }
  }

  int run(const std::vector<const float*>& inputs, const float* weights, float* output,
          std::string* error) override {
    CHANAS_CHECK(inputs.size() + 2 == buffers_.size()) << inputs.size() << " inputs";
    for (size_t i = 0; i < inputs.size(); ++i) set(i, inputs[i]);
    set(inputs.size(), weights);
    set(inputs.size() + 1, output);
    std::string message;
    context_.error = error != nullptr ? error : &message;
    context_.error->clear();
    return callable_.call_argv_fast(arguments_.size(), arguments_.data());
  }

  int assertions() const override { return assertions_; }

 private:
  void set(size_t index, const float* data) {
    buffers_[index].buffer.host = reinterpret_cast<uint8_t*>(const_cast<float*>(data));
  }

  Halide::Callable callable_;
  int assertions_;
  CallContext context_;
  Halide::JITUserContext* context_pointer_;
  std::vector<FlatBuffer> buffers_;
  std::vector<const void*> arguments_;
};

}  // namespace

StatusOr<std::unique_ptr<JitKernel>> compile_jit(const ScheduleSpace& space,
                                                 const Schedule& schedule,
                                                 const CompileOptions& options, void* runtime) {
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return guarded(space, [&]() -> StatusOr<std::unique_ptr<JitKernel>> {
    const Lowering lowering(space, schedule);
    Halide::Target target = halide_target(space, options.assertions);
    Halide::Pipeline pipeline = pipeline_of(lowering, options);
    int left = 0;
    RemoveEntryChecks remove(&left);
    if (options.assertions) pipeline.add_custom_lowering_pass(&remove, nullptr);
    Halide::Callable callable = pipeline.compile_to_callable(lowering.arguments(), target);
    return std::make_unique<HalideKernel>(space, schedule, std::move(callable), left,
                                          static_cast<chanas_runtime*>(runtime));
  });
}

Status compile_object(const ScheduleSpace& space, const Schedule& schedule,
                      const CompileOptions& options, const std::string& symbol,
                      const std::string& object_path) {
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return guarded(space, [&]() -> Status {
    const Lowering lowering(space, schedule);
    const Halide::Target target = halide_target(space, options.assertions)
                                      .with_feature(Halide::Target::NoRuntime)
                                      .with_feature(Halide::Target::UserContext);
    pipeline_of(lowering, options)
        .compile_to_object(object_path, lowering.arguments(), symbol, target);
    return absl::OkStatus();
  });
}

StatusOr<std::string> dump_loop_nest(const ScheduleSpace& space, const Schedule& schedule) {
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return guarded(space, [&]() -> StatusOr<std::string> {
    const Lowering lowering(space, schedule);
    // Halide prints it to this stream and nowhere else.
    std::ostringstream text;
    std::streambuf* original = std::cerr.rdbuf(text.rdbuf());
    struct Restore {
      std::streambuf* original;
      ~Restore() { std::cerr.rdbuf(original); }
    } restore{original};
    Halide::Pipeline(lowering.output()).print_loop_nest();
    return text.str();
  });
}

StatusOr<std::string> dump_lowered(const ScheduleSpace& space, const Schedule& schedule) {
  CHANAS_RETURN_IF_ERROR(check_legal(space, schedule));
  return guarded(space, [&]() -> StatusOr<std::string> {
    const Lowering lowering(space, schedule);
    const TemporaryFolder folder("chanas-lowered");
    const std::string path = join_path(folder.path(), "kernel.stmt");
    pipeline_of(lowering, {})
        .compile_to_lowered_stmt(path, lowering.arguments(), Halide::Text,
                                 halide_target(space, false));
    return read_file(path);
  });
}

std::string host_triple() { return Halide::get_host_target().to_string(); }

}  // namespace chanas
