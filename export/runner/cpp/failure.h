// The one exception of the runner: what is wrong, what to do, and the exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace protoseg {

struct Failure : std::runtime_error {
  explicit Failure(const std::string& message, std::string hint_text = "", int code = 1)
      : std::runtime_error(message), hint(std::move(hint_text)), exit_code(code) {}

  std::string hint;
  int exit_code;  // 1: failure, 2: invalid command line
};

}  // namespace protoseg
