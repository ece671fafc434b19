#include "bundle.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "failure.h"
#include "sha256.h"

namespace protoseg {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const char* const kAgain = "Copy or export the bundle again.";

std::optional<std::vector<char>> read_file(const fs::path& path) {
  if (!fs::is_regular_file(path)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::vector<char> content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return std::nullopt;
  return content;
}

// Relative, with slashes, below the bundle.
bool is_inside(const std::string& name) {
  if (name.empty() || name.find_first_of("\\:<>\"|?*") != std::string::npos) return false;
  std::stringstream stream(name + "/");
  for (std::string part; std::getline(stream, part, '/');) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

Reading parse_reading(const json& tree) {
  Reading reading;
  for (const auto& [key, value] : tree.items()) {
    if (key == "alpha" && (value == "auto" || value == "apply" || value == "ignore")) {
      reading.uses_alpha = value != "ignore";
    } else if (key == "exif" && (value == "apply" || value == "ignore")) {
      reading.uses_exif = value != "ignore";
    } else if (!((key == "bands" || key == "value_range") && value.is_null())) {
      reading.unsupported = key + " = " + value.dump();
    }
  }
  return reading;
}

}  // namespace

Bundle::Bundle(fs::path place) : folder(std::move(place)) {
  const fs::path path = folder / "manifest.json";
  if (!fs::exists(path)) throw Failure(folder.string() + " is not a bundle: it has no manifest.json", "", 2);
  const auto content = read_file(path);
  if (!content) throw Failure(path.string() + " cannot be read", kAgain);
  try {
    manifest_ = json::parse(content->begin(), content->end());
    if (manifest_.value("format", 0) != 2) {
      throw Failure(path.string() + " has another format than 2, which this runner reads", "Use the runner beside it.");
    }
    parse();
  } catch (const json::exception& error) {
    throw Failure(path.string() + " is damaged: " + error.what(), kAgain);
  }
}

void Bundle::parse() {
  const json& input = manifest_.at("input");
  if (input.at("name") != "images" || input.at("dtype") != "uint8" || input.at("layout") != "NHWC" ||
      input.at("color") != "RGB" || input.at("range") != json::array({0, 255})) {
    throw Failure(folder.string() + ": its input is not uint8 NHWC RGB of 0 to 255", kAgain);
  }
  classes = manifest_.at("classes").at("names").get<std::vector<std::string>>();
  colors = manifest_.at("classes").at("colors").get<std::vector<Color>>();
  if (classes.empty() || colors.size() != classes.size()) {
    throw Failure(folder.string() + ": its manifest does not have one colour per class", kAgain);
  }
  if (!input.at("fixed_size").is_null()) fixed_size = input.at("fixed_size").get<Size>();
  if (input.contains("reading")) reading = parse_reading(input.at("reading"));
  for (const auto& [name, entry] : manifest_.at("files").items()) {
    files_[name] = {entry.at("sha256").get<std::string>(), entry.at("bytes").get<std::uint64_t>()};
  }
  for (const auto& [precision, entry] : manifest_.at("graphs").items()) {
    graphs_[precision] = {entry.at("file").get<std::string>(), entry.at("files").get<std::vector<std::string>>()};
  }
}

std::vector<char> Bundle::content(const std::string& name) const {
  const fs::path path = folder / fs::u8path(name);
  const auto found = files_.find(name);
  if (found == files_.end() || !is_inside(name)) {
    throw Failure(folder.string() + ": its manifest lists no file " + name + " inside the bundle");
  }
  if (!fs::exists(path)) throw Failure(path.string() + " is missing from the bundle", kAgain);
  const fs::path relative = fs::relative(fs::canonical(path), fs::canonical(folder));
  if (relative.empty() || *relative.begin() == "..") {
    throw Failure(path.string() + " is a link to a file outside the bundle", "Copy the file to where the link is.");
  }
  auto bytes = read_file(path);
  if (!bytes) throw Failure(path.string() + " cannot be read");
  const auto& [digest, size] = found->second;
  if (bytes->size() != size || sha256(bytes->data(), bytes->size()) != digest) {
    const std::string detail = bytes->size() == size ? "its SHA-256 differs"
                                                     : std::to_string(bytes->size()) + " bytes instead of " +
                                                           std::to_string(size);
    throw Failure(path.string() + " is not the file the manifest describes: " + detail, kAgain);
  }
  return std::move(*bytes);
}

std::string Bundle::digest(const std::string& artefact) const {
  std::string name = artefact;
  if (!files_.count(name)) name = name.substr(0, name.rfind('@') == std::string::npos ? 0 : name.rfind('@'));
  std::vector<std::string> parts = {name};
  for (const auto& entry : graphs_) {
    if (entry.second.first == name) parts = entry.second.second;
  }
  std::string joined;
  for (const std::string& part : parts) {
    const auto found = files_.find(part);
    if (found == files_.end()) return "";
    joined += found->second.first;
  }
  return parts.size() == 1 ? joined : sha256(joined.data(), joined.size());
}

Verdict Bundle::verdict(const std::string& artefact) const {
  if (!manifest_.contains("verification") || manifest_.at("verification").is_null()) return Verdict::none;
  const json& stages = manifest_.at("verification").at("stages");
  const auto find = [&stages](const char* key, const std::string& value) -> const json* {
    const auto found = std::find_if(stages.begin(), stages.end(), [&](const json& one) { return one.at(key) == value; });
    return found == stages.end() ? nullptr : &*found;
  };
  const auto agrees = [](const json& stage, const char* key, const std::string& listed) {
    return !stage.contains(key) || stage.at(key).is_null() || stage.at(key) == listed;
  };
  Verdict verdict = Verdict::passed;
  std::set<std::string> seen;
  const json* stage = find("artefact", artefact);
  while (stage != nullptr && seen.insert(stage->at("stage").get<std::string>()).second) {
    const std::string against = stage->at("against").get<std::string>();
    const json* before = find("stage", against);
    std::string source;
    if (against == "pytorch") source = digest("reference.safetensors");
    else if (before != nullptr) source = digest(before->at("artefact").get<std::string>());
    if (!agrees(*stage, "artefact_sha256", digest(stage->at("artefact").get<std::string>())) ||
        !agrees(*stage, "against_sha256", source)) {
      return Verdict::none;
    }
    if (stage->at("status") == "failed") return Verdict::failed;
    if (stage->at("status") == "not run") verdict = Verdict::none;
    if (against == "pytorch") return verdict;
    stage = before;
  }
  return Verdict::none;
}

std::pair<std::string, std::vector<std::string>> Bundle::graph(const std::string& precision) const {
  const auto found = graphs_.find(precision);
  if (found == graphs_.end()) throw Failure(folder.string() + " has no " + precision + " graph", "", 2);
  return found->second;
}

}  // namespace protoseg
