// A tour of autograd: every cell of five PyTorch notebooks, in C++, printing what the notebooks
// show. Where a notebook stops with an error, the tour prints the error and goes on; where its
// numbers are random, it prints what holds for any of them. Lines with a # are remarks. Cells that
// only import modules are left out.
//
//   autograd_tour [--device cpu|cuda] [--pictures FOLDER]
#include <exception>
#include <string_view>

#include "tour.h"

namespace {

constexpr const char* kUsage = "usage: autograd_tour [--device cpu|cuda] [--pictures FOLDER]\n";

bool parse(int argc, char** argv, tour::Tour& tour) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (i + 1 == argc) return false;
    if (flag == "--device") {
      tour.device = lockstep::Device::parse(argv[i + 1]);
    } else if (flag == "--pictures") {
      tour.pictures = argv[i + 1];
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    tour::Tour tour;
    if (!parse(argc, argv, tour)) {
      std::fputs(kUsage, stderr);
      return 2;
    }
    lockstep::manual_seed(0);
    for (const auto show : {tour::vectors, tour::first_steps, tour::computing_derivatives,
                            tour::examples_to_training, tour::tensors_and_functions}) {
      if (show != tour::vectors) std::printf("\n\n");
      show(tour);
    }
    return 0;
  } catch (const std::exception& error) {
    std::printf("autograd_tour: %s\n", error.what());
    return 1;
  }
}
