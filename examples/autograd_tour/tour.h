#pragma once

#include <cstdio>
#include <filesystem>
#include <string>

#include "lockstep/lockstep.h"

// What the five notebooks of the tour share. They are written as they would be in Python: print()
// and f() stand for print(...) and f"...".
namespace tour {

struct Tour {
  lockstep::Device device;
  std::filesystem::path pictures;  // a folder for the picture of the graph; empty: none

  // What the notebooks' torch.tensor(..., requires_grad=True) and torch.tensor(...) are given.
  lockstep::LiteralOptions grad() const { return {.requires_grad = true, .device = device}; }
  lockstep::LiteralOptions plain() const { return {.device = device}; }
  // The same for torch.ones, torch.rand and torch.randn.
  lockstep::TensorOptions sized(bool requires_grad = false) const {
    return {.device = device, .requires_grad = requires_grad};
  }
};

void vectors(const Tour& tour);                // notebook 000
void first_steps(const Tour& tour);            // notebook 001
void computing_derivatives(const Tour& tour);  // notebook 002
void examples_to_training(const Tour& tour);   // notebook 003
void tensors_and_functions(const Tour& tour);  // notebook 004

// -- headings and remarks
void notebook(const std::string& title);
void section(const std::string& title);
void cell(const std::string& number);  // "In [7]:"
void note(const std::string& text);    // the tour's own words, marked by a #

// -- Python's ways of writing values
std::string text(const lockstep::Tensor& value);  // as print(tensor)
std::string text(const std::string& value);
std::string text(const char* value);
std::string text(double value);  // the shortest that reads back, "30.0"
std::string text(int value);
std::string text(bool value);  // True, False

// f"{a}{b}...": a 0-d tensor becomes a plain number.
template <typename... Values>
std::string f(const Values&... values) {
  const auto formatted = [](const auto& value) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, lockstep::Tensor>) {
      return lockstep::format_value(value);
    } else {
      return text(value);
    }
  };
  return (std::string() + ... + formatted(values));
}

// print(a, b, ...): with blanks between.
template <typename... Values>
void print(const Values&... values) {
  std::string line;
  ((line += (line.empty() ? "" : " ") + text(values)), ...);
  std::printf("%s\n", line.c_str());
}

std::string fixed(double value, int digits);  // f"{value:.3f}"

// Runs what is to fail and prints its error as the notebooks do.
template <typename Cell>
void print_error(const Cell& run) {
  try {
    run();
  } catch (const lockstep::Error& error) {
    print(f("RuntimeError: ", error.what()));
    return;
  }
  print("no error");
}

std::string grad_fn(const lockstep::Tensor& tensor);  // "AddBackward0", or "None"

// -- relations, where a notebook's numbers were random
bool close(const lockstep::Tensor& a, const lockstep::Tensor& b);  // equal up to rounding
// "[10, 1], requires_grad=True": what can be said about a random tensor.
std::string kind(const lockstep::Tensor& tensor);

}  // namespace tour
