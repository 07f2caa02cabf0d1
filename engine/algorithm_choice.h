#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

// By which algorithms a GPU's library multiplies matrices, for the whole process. All of them are
// deterministic, but differ in their bits. What describes a product, and what an algorithm, are
// texts that the backend makes and reads.
namespace lockstep {

enum class AlgorithmChoice : uint8_t {
  kHeuristic,  // the first that the library suggests; the default
  kTimed,      // the fastest of what it suggests when a product is met first: not always the same
  kTable,      // what a table says; the first suggestion for products that it does not have
};
using AlgorithmTable = std::map<std::string, std::string>;  // from products to their algorithms

// For products that are called from now on. `table` belongs to kTable.
void set_algorithm_choice(AlgorithmChoice choice, AlgorithmTable table = {});
AlgorithmChoice algorithm_choice();
// Grows with each call of set_algorithm_choice().
uint64_t algorithm_choice_number();

// The fastest algorithms found so far, for a table of another run.
AlgorithmTable timed_algorithms();

// -- for backends
std::optional<std::string> algorithm_of_table(const std::string& product);
void record_timed_algorithm(const std::string& product, const std::string& algorithm);

// Which of so many candidates has the least median of `runs` times, the first of equal ones.
// `time(i)` runs one once and gives its seconds, or nothing if it does not work, and then it is not
// tried again. Nothing if none works.
std::optional<size_t> fastest_of(size_t candidates, int runs,
                                 const std::function<std::optional<double>(size_t)>& time);

}  // namespace lockstep
