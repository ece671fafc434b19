// A bundle folder: its manifest, and files that are compared with it whenever they are read.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace protoseg {

using Color = std::array<std::uint8_t, 3>;
using Size = std::pair<std::int64_t, std::int64_t>;  // height and width

// How image files become uint8 RGB; see `input.reading` of a manifest.
struct Reading {
  bool uses_alpha = true;
  bool uses_exif = true;
  std::string unsupported;  // what the manifest asks for that is not implemented here; empty: nothing
};

enum class Verdict { passed, failed, none };

class Bundle {
 public:
  // Throws Failure where the folder is no bundle of format 2, or its manifest is damaged.
  explicit Bundle(std::filesystem::path folder);

  // The bytes of a file, which are those of the manifest. Throws Failure where it is missing, changed or outside.
  std::vector<char> content(const std::string& name) const;

  // SHA-256 as verdicts note it: of a file, or over the digests of all files of a graph; empty: not listed.
  std::string digest(const std::string& artefact) const;

  // Whether a graph, and all it was made from, passed verification; none: never compared as it is now.
  Verdict verdict(const std::string& artefact) const;

  // File of a precision and all its files. Throws Failure (exit code 2) where there is none.
  std::pair<std::string, std::vector<std::string>> graph(const std::string& precision) const;

  std::filesystem::path folder;
  std::vector<std::string> classes;
  std::vector<Color> colors;
  std::optional<Size> fixed_size;
  Reading reading;

 private:
  void parse();

  nlohmann::json manifest_;
  std::map<std::string, std::pair<std::string, std::vector<std::string>>> graphs_;
  std::map<std::string, std::pair<std::string, std::uint64_t>> files_;
};

}  // namespace protoseg
