// The C++ runner: images and folders of images to class maps by a bundle of `protoseg export`.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <random>
#include <set>

#include "failure.h"
#include "segmenter.h"

namespace fs = std::filesystem;
using namespace protoseg;

namespace {

const char kHelp[] =
    "usage: protoseg_runner BUNDLE [IMAGES... --out DIR] [options]\n"
    "\n"
    "Segments images with a bundle of `protoseg export`, with ONNX Runtime on the CPU. Without IMAGES it compares the\n"
    "bundle with its manifest.\n"
    "\n"
    "  --out DIR            folder for the masks (palette PNG, or PGM without libpng); created if missing\n"
    "  --precision NAME     graph of the bundle: fp32 (default), int8\n"
    "  --threads N          threads (default: ONNX Runtime's choice)\n"
    "  --tile N|HxW         segment in overlapping tiles of this size\n"
    "  --overlap N          of the tiles, in pixels (default: a quarter of the tile)\n"
    "  --batch N            tiles, or images of --bench, per call (default: 1)\n"
    "  --bench CALLS        measure the latency of so many calls\n"
    "  --size N|HxW         of the images of --bench (default: fixed size, or 512x512)\n"
    "  --allow-unverified   compute although verification failed\n"
    "  --json               print one JSON document\n"
    "\n"
    "Exit codes: 0 success; 1 failure, or an image could not be segmented; 2 invalid command line.\n";

struct Arguments {
  fs::path bundle;
  std::vector<fs::path> images;
  fs::path out;
  Options options;
  std::optional<Size> tile, size;
  std::int64_t overlap = -1, batch = 1, bench = 0;
  bool as_json = false;
};

std::int64_t whole(const std::string& text, const std::string& option, std::int64_t least) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > 1'000'000'000) {
    throw Failure(option + ": " + text + " is not a whole number of at least " + std::to_string(least), "", 2);
  }
  return value;
}

Size sides(const std::string& text, const std::string& option) {
  const auto cross = text.find('x');
  const std::int64_t height = whole(text.substr(0, cross), option, 1);
  return {height, cross == std::string::npos ? height : whole(text.substr(cross + 1), option, 1)};
}

Arguments parse(int count, char** words) {
  Arguments found;
  std::vector<std::string> given;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= count) throw Failure(word + " needs a value", "", 2);
      return words[++i];
    };
    if (word == "--out") found.out = fs::u8path(value());
    else if (word == "--precision") found.options.precision = value();
    else if (word == "--threads") found.options.threads = static_cast<int>(whole(value(), word, 0));
    else if (word == "--tile") found.tile = sides(value(), word);
    else if (word == "--overlap") found.overlap = whole(value(), word, 0);
    else if (word == "--batch") found.batch = whole(value(), word, 1);
    else if (word == "--bench") found.bench = whole(value(), word, 1);
    else if (word == "--size") found.size = sides(value(), word);
    else if (word == "--allow-unverified") found.options.allow_unverified = true;
    else if (word == "--json") found.as_json = true;
    else if (word.rfind("--", 0) == 0) throw Failure("no option " + word, "protoseg_runner --help lists them.", 2);
    else given.push_back(word);
  }
  if (given.empty()) throw Failure("BUNDLE is missing", "protoseg_runner --help", 2);
  found.bundle = fs::u8path(given[0]);
  found.images.assign(given.begin() + 1, given.end());
  if (found.images.empty() != found.out.empty()) throw Failure("images and --out belong together", "", 2);
  return found;
}

std::string folded(const fs::path& path) {
  std::string text = path.generic_u8string();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_below(const fs::path& path, const fs::path& folder) {
  const fs::path relative = fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(folder));
  return !relative.empty() && *relative.begin() != "..";
}

// Every image with the mask that is written for it. Throws Failure before anything is written.
std::vector<std::pair<fs::path, fs::path>> plan(const Arguments& arguments) {
  std::vector<std::pair<fs::path, fs::path>> found;  // file, and its name relative to what was given
  const auto suffixes = image_suffixes();
  for (const fs::path& given : arguments.images) {
    if (fs::is_directory(given)) {
      if (fs::exists(arguments.out) && fs::equivalent(given, arguments.out)) {
        throw Failure("--out is the folder of images " + given.string(), "Choose another --out.", 2);
      }
      for (const auto& entry : fs::recursive_directory_iterator(given)) {
        const bool fits = std::count(suffixes.begin(), suffixes.end(), folded(entry.path().extension())) > 0;
        if (fits && entry.is_regular_file() && !is_below(entry.path(), arguments.out)) {
          found.emplace_back(entry.path(), entry.path().lexically_relative(given));
        }
      }
    } else if (fs::exists(given)) {
      found.emplace_back(given, given.filename());
    } else {
      throw Failure(given.string() + ": no such file or folder", "", 2);
    }
  }
  if (found.empty()) throw Failure("no images there", "", 2);
  if (is_below(arguments.out, arguments.bundle)) throw Failure("--out lies in the bundle", "Choose another.", 2);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  std::map<std::string, int> wishes;
  for (auto& one : found) ++wishes[folded(fs::path(one.second).replace_extension(mask_suffix()))];
  std::set<std::string> taken;
  std::vector<std::pair<fs::path, fs::path>> planned;
  for (const auto& [path, name] : found) {
    fs::path target = fs::path(name).replace_extension(mask_suffix());
    if (wishes[folded(target)] > 1) target = fs::path(name) += mask_suffix();
    for (int number = 2; !taken.insert(folded(target)).second; ++number) {
      target = (fs::path(name) += "-" + std::to_string(number)) += mask_suffix();
    }
    planned.emplace_back(path, arguments.out / target);
  }
  for (const auto& [path, target] : planned) {
    if (!fs::exists(fs::symlink_status(target))) continue;
    const bool is_input = std::any_of(planned.begin(), planned.end(),
                                      [&](const auto& one) { return fs::equivalent(one.first, target); });
    if (is_input || !is_mask(target)) {
      throw Failure(target.string() + " is there and not a mask of an earlier call", "Choose another --out.", 2);
    }
  }
  return planned;
}

nlohmann::json measure(Segmenter& segmenter, const Arguments& arguments) {
  const Size size = arguments.size.value_or(segmenter.bundle().fixed_size.value_or(Size{512, 512}));
  std::vector<std::uint8_t> images(3 * arguments.batch * size.first * size.second);
  std::mt19937 random(0);
  for (auto& value : images) value = static_cast<std::uint8_t>(random());
  std::vector<double> times;
  for (std::int64_t call = 0; call < arguments.bench + 5; ++call) {
    const auto start = std::chrono::steady_clock::now();
    segmenter.predict(images.data(), arguments.batch, size);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    if (call >= 5) times.push_back(taken.count());
  }
  std::sort(times.begin(), times.end());
  const auto quantile = [&](double share) {
    const double place = share * static_cast<double>(times.size() - 1);
    const auto low = static_cast<std::size_t>(place);
    const std::size_t high = std::min(low + 1, times.size() - 1);
    return times[low] + (place - static_cast<double>(low)) * (times[high] - times[low]);
  };
  return {{"calls", arguments.bench}, {"batch", arguments.batch}, {"size", {size.first, size.second}},
          {"median_ms", quantile(0.5)}, {"p99_ms", quantile(0.99)}};
}

int run(const Arguments& arguments) {
  Segmenter segmenter(arguments.bundle, arguments.options);
  for (const std::string& warning : segmenter.warnings()) std::cerr << "Warning: " << warning << "\n";
  const Bundle& bundle = segmenter.bundle();
  const Verdict verdict = segmenter.verdict();
  nlohmann::json document = {{"bundle", arguments.bundle.u8string()}, {"graph", segmenter.file()},
                             {"precision", arguments.options.precision}, {"sha256", segmenter.digest()},
                             {"verified", nullptr}, {"provider", "cpu"}, {"classes", bundle.classes}};
  if (verdict != Verdict::none) document["verified"] = verdict == Verdict::passed;
  std::string text = (bundle.folder / segmenter.file()).string() + ": " +
                     (verdict == Verdict::passed ? "verified" : verdict == Verdict::failed ? "FAILED verification"
                                                                                           : "not verified") +
                     ", SHA-256 " + segmenter.digest() + "\n";
  std::optional<Tiles> tiles;
  if (arguments.tile || bundle.fixed_size) {
    tiles = Tiles{arguments.tile ? *arguments.tile : *bundle.fixed_size, arguments.overlap, arguments.batch};
  }
  bool has_failed = false;
  if (!arguments.images.empty()) {
    check_reading(bundle.reading);
    document["images"] = nlohmann::json::array();
    document["failed"] = nlohmann::json::array();
    for (const auto& [path, target] : plan(arguments)) {
      try {
        const Image image = read_image(path, bundle.reading);
        const auto class_map = segmenter.segment(image, tiles);
        write_mask(target, class_map, {image.height, image.width}, bundle.colors, segmenter.digest());
        document["images"].push_back({{"image", path.u8string()}, {"mask", target.u8string()},
                                      {"height", image.height}, {"width", image.width}});
      } catch (const Failure& failure) {
        if (failure.exit_code == 2) throw;
        document["failed"].push_back({{"image", path.u8string()}, {"reason", failure.what()}});
        std::cerr << "Error: " << failure.what() << "\n";
        has_failed = true;
      }
    }
    text += std::to_string(document["images"].size()) + " masks in " + arguments.out.string() + "\n";
  }
  if (arguments.bench > 0) {
    const auto bench = measure(segmenter, arguments);
    document["bench"] = bench;
    char line[200];
    std::snprintf(line, sizeof line, "%lldx%lldx%lld, %lld calls: median %.2f ms, p99 %.2f ms\n",
                  static_cast<long long>(arguments.batch), bench["size"][0].get<long long>(),
                  bench["size"][1].get<long long>(), static_cast<long long>(arguments.bench),
                  bench["median_ms"].get<double>(), bench["p99_ms"].get<double>());
    text += line;
  }
  constexpr auto replace = nlohmann::json::error_handler_t::replace;
  std::cout << (arguments.as_json ? document.dump(-1, ' ', false, replace) + "\n" : text) << std::flush;
  return has_failed ? 1 : 0;
}

}  // namespace

int main(int count, char** words) {
  for (int i = 1; i < count; ++i) {
    if (std::string(words[i]) == "--help" || std::string(words[i]) == "-h") {
      std::cout << kHelp;
      return 0;
    }
  }
  try {
    return run(parse(count, words));
  } catch (const Failure& failure) {
    std::cerr << "Error: " << failure.what() << "\n";
    if (!failure.hint.empty()) std::cerr << failure.hint << "\n";
    return failure.exit_code;
  } catch (const std::bad_alloc&) {
    std::cerr << "Error: not enough memory\n";
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
  }
  return 1;
}
