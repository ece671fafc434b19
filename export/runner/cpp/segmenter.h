// Images to class maps by a graph of a bundle, with ONNX Runtime on the CPU.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "images.h"

namespace protoseg {

struct Options {
  std::string precision = "fp32";
  int threads = 0;  // 0: ONNX Runtime's default
  bool allow_unverified = false;
};

struct Tiles {
  Size size;
  std::int64_t overlap = -1;  // -1: a quarter of the shorter side
  std::int64_t batch = 1;
};

class Segmenter {
 public:
  // Compares the files with the manifest. Throws Failure where one differs, where verification failed (unless it is
  // allowed), for fp16 and bf16 (which ONNX Runtime's CPU provider computes with other rounding than was verified;
  // unless it is allowed), and where ONNX Runtime cannot load the graph.
  Segmenter(const std::filesystem::path& folder, const Options& options);

  // Class indices [batch * height * width] of uint8 RGB images [batch * height * width * 3]. Throws Failure.
  std::vector<std::int32_t> predict(const std::uint8_t* images, std::int64_t batch, Size size);

  // Class indices [height * width] of an image of any size: whole, or in overlapping tiles that are cut in the middle
  // of what they share, as `protoseg predict --tile` does. A graph of a fixed size always gets tiles of it.
  std::vector<std::int32_t> segment(const Image& image, const std::optional<Tiles>& tiles = std::nullopt);

  const Bundle& bundle() const { return bundle_; }
  const std::string& file() const { return file_; }
  const std::string& digest() const { return digest_; }
  Verdict verdict() const { return verdict_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void doubt(const std::string& what, bool refuse, bool is_allowed);
  void open(const Options& options, const std::vector<std::string>& files);

  Bundle bundle_;
  std::string file_, digest_;
  Verdict verdict_;
  std::vector<std::string> warnings_;
  std::vector<char> graph_;
  Ort::Env env_{nullptr};
  Ort::Session session_{nullptr};
};

}  // namespace protoseg
