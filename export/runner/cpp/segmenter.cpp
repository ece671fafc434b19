#include "segmenter.h"

#include <algorithm>

#include "failure.h"

namespace protoseg {
namespace {

struct Span {
  std::int64_t start, first, end;  // of a tile, and of the part of the output that comes from it
};

std::vector<Span> spans(std::int64_t length, std::int64_t tile, std::int64_t overlap) {
  const std::int64_t step = std::max<std::int64_t>(tile - overlap, 1);  // a side shorter than the overlap is one tile
  const std::int64_t count = 1 + (length - tile + step - 1) / step;
  const auto start = [&](std::int64_t number) {
    return (length - tile) * number / std::max<std::int64_t>(count - 1, 1);
  };
  std::vector<Span> found;
  for (std::int64_t number = 0; number < count; ++number) {
    const std::int64_t first = number == 0 ? 0 : found.back().end;
    const std::int64_t end = number + 1 == count ? length : (start(number) + tile + start(number + 1)) / 2;
    found.push_back({start(number), first, end});
  }
  return found;
}

// Mirrored at the bottom and at the right, as often as needed.
Image padded(const Image& image, Size size) {
  Image larger{size.first, size.second, std::vector<std::uint8_t>(size.first * size.second * 3)};
  const auto mirrored = [](std::int64_t place, std::int64_t length) {
    place %= 2 * length;
    return place < length ? place : 2 * length - 1 - place;
  };
  for (std::int64_t y = 0; y < size.first; ++y) {
    for (std::int64_t x = 0; x < size.second; ++x) {
      const std::int64_t from = mirrored(y, image.height) * image.width + mirrored(x, image.width);
      std::copy_n(&image.pixels[3 * from], 3, &larger.pixels[3 * (y * size.second + x)]);
    }
  }
  return larger;
}

}  // namespace

Segmenter::Segmenter(const std::filesystem::path& folder, const Options& options) : bundle_(folder) {
  std::vector<std::string> files;
  std::tie(file_, files) = bundle_.graph(options.precision);
  graph_ = bundle_.content(file_);
  for (const std::string& name : files) {
    if (name != file_) bundle_.content(name);
  }
  digest_ = bundle_.digest(file_);
  try {
    verdict_ = bundle_.verdict(file_);
  } catch (const nlohmann::json::exception& error) {
    throw Failure(folder.string() + ": its verification cannot be read: " + error.what());
  }
  const std::string shown = (folder / file_).string();
  if (verdict_ == Verdict::failed) doubt(shown + " failed verification", true, options.allow_unverified);
  if (verdict_ == Verdict::none) doubt(shown + " is not verified", false, true);
  if (options.precision == "fp16" || options.precision == "bf16") {
    doubt(options.precision + ": ONNX Runtime computes it on a CPU with other rounding than was verified", true,
          options.allow_unverified);
  }
  open(options, files);
}

void Segmenter::doubt(const std::string& what, bool refuse, bool is_allowed) {
  if (refuse && !is_allowed) throw Failure(what + ": refused", "Use another --precision, or --allow-unverified.");
  warnings_.push_back(what);
}

void Segmenter::open(const Options& options, const std::vector<std::string>& files) {
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    throw Failure(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                      " is older than the headers this program was built with",
                  "Install the version it was built with, or build it again.");
  }
  const std::string shown = (bundle_.folder / file_).string();
  try {
    env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "protoseg");
    env_.DisableTelemetryEvents();
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(options.threads);
    settings.SetInterOpNumThreads(1);
    settings.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    if (files.size() > 1) {  // weights above 2 GB have to stay in their file
      session_ = Ort::Session(env_, (bundle_.folder / file_).c_str(), settings);
    } else {  // the bytes that were compared are the ones that are loaded
      session_ = Ort::Session(env_, graph_.data(), graph_.size(), settings);
    }
    graph_ = {};
    const Ort::TypeInfo info = session_.GetInputTypeInfo(0);
    const auto tensor = info.GetTensorTypeAndShapeInfo();
    if (session_.GetInputCount() != 1 || tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 ||
        tensor.GetShape().size() != 4) {
      throw Failure(shown + " does not take uint8 images [batch,height,width,3]", "Export it again.");
    }
  } catch (const Ort::Exception& error) {
    throw Failure("ONNX Runtime cannot load " + shown + ": " + error.what());
  }
}

std::vector<std::int32_t> Segmenter::predict(const std::uint8_t* images, std::int64_t batch, Size size) {
  if (bundle_.fixed_size && *bundle_.fixed_size != size) {
    throw Failure(file_ + " takes images of " + std::to_string(bundle_.fixed_size->first) + "x" +
                      std::to_string(bundle_.fixed_size->second) + " only",
                  "Leave --size out.", 2);
  }
  const std::array<std::int64_t, 4> shape = {batch, size.first, size.second, 3};
  const std::size_t pixels = static_cast<std::size_t>(batch * size.first * size.second);
  const char* inputs[] = {"images"};
  const char* outputs[] = {"class_map"};
  std::vector<std::int32_t> class_map(pixels);
  try {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    // ONNX Runtime does not write to inputs; its API knows no tensors of constant memory.
    const Ort::Value tensor = Ort::Value::CreateTensor<std::uint8_t>(memory, const_cast<std::uint8_t*>(images),
                                                                     3 * pixels, shape.data(), shape.size());
    auto found = session_.Run(Ort::RunOptions{nullptr}, inputs, &tensor, 1, outputs, 1);
    const auto info = found[0].GetTensorTypeAndShapeInfo();
    const auto kind = info.GetElementType();
    const auto wanted = bundle_.classes.size() <= 256 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                                      : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    if (kind != wanted || info.GetShape() != std::vector<std::int64_t>(shape.begin(), shape.end() - 1)) {
      throw Failure(file_ + " gives no class map of these images", "Export it again.");
    }
    if (kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) {
      std::copy_n(found[0].GetTensorMutableData<std::uint8_t>(), pixels, class_map.begin());
    } else {
      std::copy_n(found[0].GetTensorMutableData<std::int32_t>(), pixels, class_map.begin());
    }
  } catch (const Ort::Exception& error) {
    throw Failure(file_ + " cannot be computed: " + error.what(), "Use smaller images or tiles.");
  }
  const auto classes = static_cast<std::int32_t>(bundle_.classes.size());
  if (std::any_of(class_map.begin(), class_map.end(), [&](std::int32_t c) { return c < 0 || c >= classes; })) {
    throw Failure(file_ + " gives indices that are no class", "Export it again.");
  }
  return class_map;
}

std::vector<std::int32_t> Segmenter::segment(const Image& given, const std::optional<Tiles>& asked) {
  const auto& fixed = bundle_.fixed_size;
  if (!asked && !fixed) return predict(given.pixels.data(), 1, {given.height, given.width});
  Tiles tiles = asked ? *asked : Tiles{*fixed};
  auto& [rows, columns] = tiles.size;
  if (tiles.overlap < 0) tiles.overlap = std::min(rows, columns) / 4;
  if (std::min(rows, columns) < 1 || tiles.batch < 1 || tiles.overlap >= std::min(rows, columns) ||
      (fixed && *fixed != tiles.size)) {
    throw Failure("tiles of " + std::to_string(rows) + "x" + std::to_string(columns) + " with an overlap of " +
                      std::to_string(tiles.overlap) + " are not possible",
                  "0 <= overlap < tile; a graph of a fixed size takes tiles of that size.", 2);
  }
  if (!fixed) tiles.size = {std::min(rows, given.height), std::min(columns, given.width)};
  const Size whole = {std::max(rows, given.height), std::max(columns, given.width)};
  const bool fits = whole == Size{given.height, given.width};
  const Image larger = fits ? Image{} : padded(given, whole);
  const Image& image = fits ? given : larger;

  std::vector<std::pair<Span, Span>> places;
  for (const Span& row : spans(image.height, rows, tiles.overlap)) {
    for (const Span& column : spans(image.width, columns, tiles.overlap)) places.emplace_back(row, column);
  }
  std::vector<std::int32_t> class_map(given.height * given.width);
  std::vector<std::uint8_t> batch;
  for (std::size_t from = 0; from < places.size(); from += tiles.batch) {
    const std::size_t to = std::min(places.size(), from + static_cast<std::size_t>(tiles.batch));
    batch.clear();
    for (std::size_t place = from; place < to; ++place) {
      const auto& [row, column] = places[place];
      for (std::int64_t y = 0; y < rows; ++y) {
        const auto* start = &image.pixels[3 * ((row.start + y) * image.width + column.start)];
        batch.insert(batch.end(), start, start + 3 * columns);
      }
    }
    const auto found = predict(batch.data(), static_cast<std::int64_t>(to - from), tiles.size);
    for (std::size_t place = from; place < to; ++place) {
      const auto& [row, column] = places[place];
      const std::int64_t end = std::min(column.end, given.width);
      for (std::int64_t y = row.first; y < std::min(row.end, given.height); ++y) {
        if (column.first >= end) break;
        const std::int64_t source =
            ((static_cast<std::int64_t>(place - from) * rows) + y - row.start) * columns + column.first - column.start;
        std::copy_n(&found[source], end - column.first, &class_map[y * given.width + column.first]);
      }
    }
  }
  return class_map;
}

}  // namespace protoseg
