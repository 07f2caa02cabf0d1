#include "lockstep/distributed/node_layout.h"

#include <algorithm>
#include <cstdlib>

#include "lockstep/distributed/mpi_calls.h"
#include "lockstep/engine/tensor/check.h"

namespace lockstep::distributed {

int NodeLayout::rank() const {
  return nodes[static_cast<size_t>(node)][static_cast<size_t>(index)];
}

int NodeLayout::world_size() const {
  size_t size = 0;
  for (const auto& ranks : nodes) size += ranks.size();
  return static_cast<int>(size);
}

int NodeLayout::channels() const {
  size_t channels = nodes[0].size();
  for (const auto& ranks : nodes) channels = std::min(channels, ranks.size());
  return static_cast<int>(channels);
}

std::vector<int> NodeLayout::reduction_order() const {
  std::vector<int> order;
  for (const auto& ranks : nodes) order.insert(order.end(), ranks.begin(), ranks.end());
  return order;
}

MPI_Comm node_of(MPI_Comm world) {
  MPI_Comm machine = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine));
  const char* text = std::getenv("LOCKSTEP_RANKS_PER_NODE");
  if (text == nullptr || *text == '\0') return machine;
  const int per_node = std::atoi(text);
  check(per_node >= 1, "[mpi group] LOCKSTEP_RANKS_PER_NODE={} must be a positive number", text);
  int index = 0;
  LOCKSTEP_MPI(MPI_Comm_rank(machine, &index));
  MPI_Comm node = MPI_COMM_NULL;
  LOCKSTEP_MPI(MPI_Comm_split(machine, index / per_node, index, &node));
  LOCKSTEP_MPI(MPI_Comm_free(&machine));
  return node;
}

NodeLayout layout_of(MPI_Comm world, MPI_Comm node) {
  int rank = 0;
  int size = 0;
  LOCKSTEP_MPI(MPI_Comm_rank(world, &rank));
  LOCKSTEP_MPI(MPI_Comm_size(world, &size));
  int leader = rank;
  LOCKSTEP_MPI(MPI_Bcast(&leader, 1, MPI_INT, 0, node));
  std::vector<int> leaders(static_cast<size_t>(size));
  LOCKSTEP_MPI(MPI_Allgather(&leader, 1, MPI_INT, leaders.data(), 1, MPI_INT, world));
  NodeLayout layout;
  for (int first = 0; first < size; ++first) {
    if (leaders[static_cast<size_t>(first)] != first) continue;
    if (first == leader) layout.node = static_cast<int>(layout.nodes.size());
    auto& ranks = layout.nodes.emplace_back();
    for (int r = first; r < size; ++r) {
      if (leaders[static_cast<size_t>(r)] != first) continue;
      if (r == rank) layout.index = static_cast<int>(ranks.size());
      ranks.push_back(r);
    }
  }
  return layout;
}

}  // namespace lockstep::distributed
