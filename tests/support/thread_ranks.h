#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/distributed.h"

namespace exactnorm::testing {

/// Ranks that are threads of this process. A message goes on when all ranks have sent theirs, in the order of calls.
class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : size_(size) {}

  /// Calls work(communicator) in one thread per rank, and waits for all.
  static void run(int size, const std::function<void(Communicator& communicator)>& work) {
    ThreadRanks ranks(size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&ranks, &work, rank] {
        Rank communicator(ranks, rank);
        work(communicator);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  template <typename Part>
  struct Message {
    std::vector<Part> parts;
    int arrived = 0;
  };

  template <typename Part>
  class Mailbox {
   public:
    void put(const ThreadRanks& ranks, int rank, std::size_t number, Part part) {
      const std::lock_guard lock(mutex_);
      Message<Part>& message = messages_[number];
      message.parts.resize(static_cast<std::size_t>(ranks.size_));
      message.parts[static_cast<std::size_t>(rank)] = std::move(part);
      ++message.arrived;
      changed_.notify_all();
    }
    bool is_complete(const ThreadRanks& ranks, std::size_t number) {
      const std::lock_guard lock(mutex_);
      return messages_[number].arrived == ranks.size_;
    }
    std::vector<Part> get(const ThreadRanks& ranks, std::size_t number) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return messages_[number].arrived == ranks.size_; });
      return messages_[number].parts;
    }

   private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::map<std::size_t, Message<Part>> messages_;
  };

  using Numbers = std::vector<std::int64_t>;

  class Sum : public PendingSum {
   public:
    Sum(ThreadRanks& ranks, std::size_t number) : ranks_(ranks), number_(number) {}
    bool is_done() override { return ranks_.sums_.is_complete(ranks_, number_); }
    Numbers wait() override {
      const std::vector<Numbers> parts = ranks_.sums_.get(ranks_, number_);
      Numbers total = parts.front();
      for (std::size_t rank = 1; rank < parts.size(); ++rank) {
        for (std::size_t i = 0; i < total.size(); ++i) total[i] += parts[rank].at(i);
      }
      return total;
    }

   private:
    ThreadRanks& ranks_;
    std::size_t number_;
  };

  class Rank : public Communicator {
   public:
    Rank(ThreadRanks& ranks, int rank) : ranks_(ranks), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return ranks_.size_; }
    std::unique_ptr<PendingSum> start_sum(Numbers numbers) override {
      ranks_.sums_.put(ranks_, rank_, sums_, std::move(numbers));
      return std::make_unique<Sum>(ranks_, sums_++);
    }
    std::vector<std::string> gather(const std::string& text) override {
      ranks_.texts_.put(ranks_, rank_, gathers_, text);
      return ranks_.texts_.get(ranks_, gathers_++);
    }

   private:
    ThreadRanks& ranks_;
    int rank_;
    std::size_t sums_ = 0;
    std::size_t gathers_ = 0;
  };

  int size_;
  Mailbox<Numbers> sums_;
  Mailbox<std::string> texts_;
};

}  // namespace exactnorm::testing
