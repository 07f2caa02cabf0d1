// Trains a small GPT on the bytes of a text, alone or data-parallel, and lets it write a sample:
//
//   char_gpt --text book.txt
//   mpirun -n 2 --bind-to none char_gpt --layers 2 --width 128 --context 64 --lr 3e-3
//     --max-steps 1000
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "lockstep/lockstep.h"

#include "model.h"
#include "text.h"

using namespace lockstep;
using char_gpt::Gpt;
using char_gpt::Windows;

namespace {

struct Settings {
  char_gpt::Size size;
  std::string text = char_gpt::kBible;
  double lr = 1e-3;
  int64_t warmup = 100;
  int64_t validate_every = 500;
  int64_t generate = 300;
  double temperature = 0.8;
  std::string prompt = "\n";
};

void check_settings(const Settings& s) {
  const auto require = [](bool ok, const char* text) {
    if (!ok) throw launch::UsageError(std::string("[char_gpt] ") + text);
  };
  require(s.lr > 0.0, "--lr must be positive");
  require(s.warmup >= 0, "--warmup must not be negative");
  require(s.validate_every >= 0, "--validate-every must not be negative");
  require(s.generate >= 0, "--generate must not be negative");
  require(s.temperature > 0.0, "--temperature must be positive");
  require(!s.prompt.empty(), "--prompt must not be empty: something has to come first");
}

// Matrices decay, biases and the scales of the norms do not.
std::vector<optim::ParamGroup<optim::AdamW::Options>> groups(const Gpt& net, double lr) {
  std::vector<optim::ParamGroup<optim::AdamW::Options>> result(2);
  result[0].options = {.lr = lr, .beta2 = 0.99, .weight_decay = 0.1};
  result[1].options = {.lr = lr, .beta2 = 0.99, .weight_decay = 0.0};
  for (const auto& parameter : net.parameters()) {
    result[parameter.dim() >= 2 ? 0 : 1].parameters.push_back(parameter);
  }
  return result;
}

// Up in a straight line, then half a cosine down to a tenth.
double rate(int64_t step, int64_t warmup, int64_t steps) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double passed = static_cast<double>(step - warmup) /
                        static_cast<double>(std::max<int64_t>(steps - warmup, 1));
  return 0.1 + 0.45 * (1.0 + std::cos(std::numbers::pi * std::min(passed, 1.0)));
}

void print_sample(std::string sample) {
  std::replace_if(
      sample.begin(), sample.end(),
      [](unsigned char c) { return (c < ' ' && c != '\n' && c != '\t') || c == 0x7f; }, '?');
  std::printf("---\n%s\n---\n", sample.c_str());
}

void train(launch::Job& job, const Settings& s) {
  check_settings(s);
  // The last tenth of the text is for validation: all of it at the end, a tenth of it on the way.
  const auto text = std::make_shared<const std::string>(char_gpt::read_text(s.text));
  const size_t cut = text->size() / 10 * 9;
  // An epoch is the text once, in windows side by side; otherwise they begin anywhere.
  const bool in_epochs = !job.options().max_steps;
  const Windows windows(text, 0, cut, s.size.context, in_epochs ? s.size.context : 1);
  const Windows validation(text, cut, text->size(), s.size.context, s.size.context);
  const Windows glimpse(text, cut, text->size(), s.size.context, 10 * s.size.context);

  Gpt net(s.size);
  net.to(job.device());
  distributed::DataParallel replicas(net, job.group(),
                                     {.reduction = job.reduction(),
                                      .compression = job.compression(),
                                      .precision = job.precision()});
  optim::AdamW adam(groups(net, s.lr));
  auto steps = job.steps(windows);
  optim::LambdaLR schedule(adam, [&](int64_t step) { return rate(step, s.warmup, steps.size()); });
  const auto loss_of = [&](const data::Batch& batch) { return net.loss(batch.x, batch.y); };

  for (auto& step : steps) {
    if (s.validate_every > 0 && step.index > 0 && step.index % s.validate_every == 0) {
      job.evaluate_loss(glimpse, loss_of, 16);
    }
    adam.zero_grad();
    for (auto& micro : replicas.accumulate(step)) {
      replicas.backward(net.loss(micro.x, micro.y), micro.size());
    }
    optim::clip_grad_norm_(net.parameters(), 1.0);
    adam.step();
    schedule.step();
  }
  job.evaluate_loss(validation, loss_of, 16);
  if (job.rank() == 0 && s.generate > 0) {
    print_sample(s.prompt + char_gpt::generate(net, s.prompt, s.generate, s.temperature));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  s.size.heads = 0;
  launch::Options defaults;
  defaults.max_steps = 2000;
  defaults.global_batch = 32;
  launch::ProgramOptions flags(
      "Trains a small GPT on the bytes of a text and lets it write a sample. A sample of training "
      "is a random window of the text's first nine tenths, or with --epochs one of those that lie "
      "side by side; the loss is in nats per byte, the last tenth is for validation. In three "
      "minutes on two cores:\n"
      "mpirun -n 2 --bind-to none char_gpt --layers 2 --width 128 --context 64 --lr 3e-3 "
      "--max-steps 1000",
      defaults);
  flags.integer("--layers", s.size.layers, "transformer blocks")
      .integer("--width", s.size.width, "size of the residual stream")
      .integer("--heads", s.size.heads, "attention heads; 0: one for every 64 of the width")
      .integer("--context", s.size.context, "bytes that the model sees")
      .number("--lr", s.lr, "AdamW's highest learning rate; it ends at a tenth of it")
      .integer("--warmup", s.warmup, "steps in which the learning rate rises")
      .text("--text", s.text, "the text; by default the package bible-kjv-text")
      .integer("--validate-every", s.validate_every,
               "steps between looks at a tenth of the validation text; 0: only at the end")
      .integer("--generate", s.generate, "bytes to write after training")
      .text("--prompt", s.prompt, "what to continue")
      .number("--temperature", s.temperature, "how freely: below 1 the likely gets likelier");
  return launch::run(
      argc, argv,
      [&](launch::Job& job) {
        if (s.size.heads == 0) s.size.heads = std::max<int64_t>(1, s.size.width / 64);
        train(job, s);
      },
      flags);
}
