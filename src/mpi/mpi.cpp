#include "exactnorm/mpi.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/error.h"

namespace exactnorm::mpi {

namespace {

// MPI counts with an int.
constexpr std::size_t most_elements = std::size_t{1} << 30;
constexpr int most_ranks = 65536;

bool is_running() {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

// Ends all ranks with a message. Most errors do so within MPI already, by the handler that the duplicates have. Those
// of other communicators, and of none, are left to handlers that may return: mpi4py sets such a one.
void require(int code) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  std::fprintf(stderr, "exactnorm: error of MPI: %s\n", text.data());
  abort_all(1);
}

// One by one, as MPI_Testall does not say which error it met.
bool test_all(std::vector<MPI_Request>& requests) {
  bool all_done = true;
  for (MPI_Request& request : requests) {
    int done = 0;
    require(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    all_done = all_done && done != 0;
  }
  return all_done;
}

// Polls, rather than blocking in MPI, so that `while_waiting` gets its turn: at first as fast as can be, some 100
// microseconds, then asleep between polls, for others who need the processor. (Yielding it would wait for their time
// slices.)
void wait_for(std::vector<MPI_Request>& requests, const std::function<void()>& while_waiting) {
  constexpr int fast_polls = 1000;
  for (int polls = 0; !test_all(requests); ++polls) {
    if (while_waiting) while_waiting();
    if (polls >= fast_polls) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// A communicator of one's own, freed when neither its ranks' object nor a call under way needs it any more.
class Duplicate {
 public:
  explicit Duplicate(MPI_Comm original) {
    require(MPI_Comm_dup(original, &communicator_));
    // The original's handler is inherited, whatever it is.
    require(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_ARE_FATAL));
  }
  ~Duplicate() {
    if (is_running()) require(MPI_Comm_free(&communicator_));
  }
  Duplicate(const Duplicate&) = delete;
  Duplicate& operator=(const Duplicate&) = delete;

  [[nodiscard]] MPI_Comm get() const { return communicator_; }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
};

// Collective calls under way, with all memory that MPI reads and writes meanwhile.
struct Sum {
  std::shared_ptr<const Duplicate> ranks;
  std::vector<std::int64_t> numbers;
  std::vector<MPI_Request> requests;
};

struct LengthGather {
  std::shared_ptr<const Duplicate> ranks{};
  std::int64_t own = 0;
  std::vector<std::int64_t> all{};
  std::vector<MPI_Request> requests = {MPI_REQUEST_NULL};
};

struct TextGather {
  std::shared_ptr<const Duplicate> ranks{};
  std::string own{};
  std::string all{};
  std::vector<int> lengths{};
  std::vector<int> offsets{};
  std::vector<MPI_Request> requests = {MPI_REQUEST_NULL};
};

// MPI has no way to cancel a collective call: one that is given up keeps its memory and its communicator until the
// process ends.
struct DeleteWhenDone {
  template <typename Call>
  void operator()(Call* call) const {
    if (!is_running() || test_all(call->requests)) delete call;
  }
};

template <typename Call>
using Owned = std::unique_ptr<Call, DeleteWhenDone>;

class MpiSum : public PendingSum {
 public:
  MpiSum(std::vector<std::int64_t> numbers, const std::shared_ptr<const Duplicate>& ranks,
         std::function<void()> while_waiting)
      : sum_(new Sum{ranks, std::move(numbers), {}}), while_waiting_(std::move(while_waiting)) {
    const std::size_t size = sum_->numbers.size();
    // All at once: none may move or fail when some are under way.
    sum_->requests.resize((size + most_elements - 1) / most_elements, MPI_REQUEST_NULL);
    for (std::size_t i = 0; i < sum_->requests.size(); ++i) {
      const std::size_t first = i * most_elements;
      require(MPI_Iallreduce(MPI_IN_PLACE, sum_->numbers.data() + first,
                             static_cast<int>(std::min(most_elements, size - first)), MPI_INT64_T, MPI_SUM,
                             ranks->get(), &sum_->requests[i]));
    }
  }

  bool is_done() override { return test_all(sum_->requests); }

  std::vector<std::int64_t> wait() override {
    wait_for(sum_->requests, while_waiting_);
    return std::move(sum_->numbers);
  }

 private:
  Owned<Sum> sum_;
  std::function<void()> while_waiting_;
};

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm communicator, std::function<void()> while_waiting)
      : while_waiting_(std::move(while_waiting)) {
    if (communicator == MPI_COMM_NULL) throw Error("communicator", "is MPI_COMM_NULL; expected one with ranks");
    int is_between_groups = 0;
    require(MPI_Comm_test_inter(communicator, &is_between_groups));
    if (is_between_groups != 0) {
      throw Error("communicator", "is an intercommunicator; expected one whose ranks are a single group");
    }
    ranks_ = std::make_shared<const Duplicate>(communicator);
    require(MPI_Comm_rank(ranks_->get(), &rank_));
    require(MPI_Comm_size(ranks_->get(), &size_));
    if (size_ > most_ranks) {
      throw Error("communicator", "has " + std::to_string(size_) + " ranks; expected at most 65536");
    }
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }

  std::unique_ptr<PendingSum> start_sum(std::vector<std::int64_t> numbers) override {
    check_in_step();
    return std::make_unique<MpiSum>(std::move(numbers), ranks_, while_waiting_);
  }

  std::vector<std::string> gather(const std::string& text) override {
    check_in_step();
    // The others go on to the second call, whatever is thrown here before it.
    is_in_step_ = false;
    const std::vector<std::int64_t> lengths = gather_lengths(static_cast<std::int64_t>(text.size()));
    std::int64_t total = 0;
    for (const std::int64_t length : lengths) {
      if (length > static_cast<std::int64_t>(most_elements) - total) {
        // The same on all ranks, which know all lengths.
        is_in_step_ = true;
        throw Error("text", "is of more than 2^30 bytes on all ranks together; expected fewer");
      }
      total += length;
    }
    const Owned<TextGather> call = start_gather(text, lengths, total);
    is_in_step_ = true;
    wait_for(call->requests, while_waiting_);
    std::vector<std::string> texts;
    for (std::size_t rank = 0; rank < lengths.size(); ++rank) {
      texts.push_back(call->all.substr(static_cast<std::size_t>(call->offsets[rank]),
                                       static_cast<std::size_t>(call->lengths[rank])));
    }
    return texts;
  }

 private:
  void check_in_step() const {
    if (is_in_step_) return;
    throw Error("communicator",
                "was left by an exception while it gathered, so that its ranks are at different calls; "
                "expected another one");
  }

  [[nodiscard]] std::vector<std::int64_t> gather_lengths(std::int64_t own) const {
    const Owned<LengthGather> call(new LengthGather{.ranks = ranks_, .own = own});
    call->all.resize(static_cast<std::size_t>(size_));
    require(MPI_Iallgather(&call->own, 1, MPI_INT64_T, call->all.data(), 1, MPI_INT64_T, ranks_->get(),
                           call->requests.data()));
    wait_for(call->requests, while_waiting_);
    return std::move(call->all);
  }

  [[nodiscard]] Owned<TextGather> start_gather(const std::string& text, const std::vector<std::int64_t>& lengths,
                                               std::int64_t total) const {
    Owned<TextGather> call(new TextGather{.ranks = ranks_, .own = text});
    call->all.resize(static_cast<std::size_t>(total));
    std::int64_t offset = 0;
    for (const std::int64_t length : lengths) {
      call->lengths.push_back(static_cast<int>(length));
      call->offsets.push_back(static_cast<int>(offset));
      offset += length;
    }
    require(MPI_Iallgatherv(call->own.data(), static_cast<int>(call->own.size()), MPI_BYTE, call->all.data(),
                            call->lengths.data(), call->offsets.data(), MPI_BYTE, ranks_->get(),
                            call->requests.data()));
    return call;
  }

  std::function<void()> while_waiting_;
  std::shared_ptr<const Duplicate> ranks_;
  int rank_ = 0;
  int size_ = 1;
  bool is_in_step_ = true;
};

void check_running() {
  if (!is_running()) throw Error("communicator", "is used while MPI is not running; expected mpi::Environment first");
}

}  // namespace

Environment::Environment() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) return;
  // OpenMP's threads compute; one thread talks.
  int provided = 0;
  require(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  owns_ = true;
}

Environment::~Environment() {
  if (owns_ && is_running()) require(MPI_Finalize());
}

std::unique_ptr<Communicator> communicator_of(int fortran_handle, std::function<void()> while_waiting) {
  check_running();
  return std::make_unique<MpiCommunicator>(MPI_Comm_f2c(fortran_handle), std::move(while_waiting));
}

std::unique_ptr<Communicator> world(std::function<void()> while_waiting) {
  check_running();
  return std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, std::move(while_waiting));
}

void abort_all(int exit_status) {
  if (is_running()) MPI_Abort(MPI_COMM_WORLD, exit_status);
  std::exit(exit_status);
}

std::string version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  // Its first line, up to a comma, after which Open MPI and others describe the build.
  text.resize(static_cast<std::size_t>(length));
  return text.substr(0, text.find_first_of(",\n"));
}

}  // namespace exactnorm::mpi
