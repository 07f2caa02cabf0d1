// main() of every test that runs under mpirun.
//
// One failing rank must fail the whole run, and soon. After each test the ranks meet, so that a
// failure seen by one is known to all and every rank enters the next test together. A rank that
// failed may have left the others waiting in a collective it will never join: they do not arrive at
// the meeting, and after a few seconds the failed rank aborts the job.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>

#include <gtest/gtest.h>
#include <mpi.h>

namespace {

constexpr std::chrono::seconds kPatience{5};

// Everybody's failures: true if any rank reports one. Aborts if this rank failed and the others do
// not arrive.
bool any_rank_failed(MPI_Comm comm, bool failed_here) {
  const int mine = failed_here ? 1 : 0;
  int worst = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, comm, &request);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) break;
    if (failed_here && std::chrono::steady_clock::now() > deadline) {
      std::fprintf(stderr, "the other ranks hang after this rank's failure: aborting\n");
      std::fflush(nullptr);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return worst != 0;
}

class Meeting : public testing::EmptyTestEventListener {
 public:
  Meeting(MPI_Comm comm, int rank) : comm_(comm), rank_(rank) {}
  bool failed() const { return failed_; }

 private:
  // Rank 0 has GoogleTest's own printer; the others speak only about failures.
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (rank_ == 0 || !part.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_,
                 part.file_name() != nullptr ? part.file_name() : "?", part.line_number(),
                 part.message());
  }

  void OnTestEnd(const testing::TestInfo& info) override {
    const bool here = info.result()->Failed();
    const bool anywhere = any_rank_failed(comm_, here);
    if (anywhere && !here) {
      std::fprintf(stderr, "rank %d: %s.%s failed on another rank\n", rank_, info.test_suite_name(),
                   info.name());
    }
    failed_ = failed_ || anywhere;
  }

  MPI_Comm comm_;
  int rank_;
  bool failed_ = false;
};

// The number of ranks the test was registered with, or 0.
int expected_ranks(int argc, char** argv) {
  constexpr std::string_view kFlag = "--ranks=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.substr(0, kFlag.size()) == kFlag) return std::atoi(argv[i] + kFlag.size());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  testing::InitGoogleTest(&argc, argv);

  const int expected = expected_ranks(argc, argv);
  if (size != expected || provided < MPI_THREAD_MULTIPLE) {
    std::fprintf(stderr,
                 "%d ranks (thread level %d) where %d were asked for (--ranks=N, level %d)\n", size,
                 provided, expected, MPI_THREAD_MULTIPLE);
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }

  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  auto* meeting = new Meeting(comm, rank);  // owned by the listeners
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(meeting);
  int result = RUN_ALL_TESTS();
  if (meeting->failed()) result = 1;
  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::fprintf(stderr, "no test to run\n");
    result = 1;
  }
  MPI_Comm_free(&comm);
  MPI_Finalize();
  return result;
}
