#include "images.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <regex>

#ifdef PROTOSEG_PNG
#include <png.h>
#endif
#ifdef PROTOSEG_JPEG
#include <jpeglib.h>

#include <jerror.h>
#endif

#include "failure.h"

namespace protoseg {
namespace fs = std::filesystem;

namespace {

const char kMark[] = "protoseg-runner";
constexpr std::int64_t kMostPixels = std::int64_t{1} << 30;

using Bytes = std::vector<std::uint8_t>;

Bytes read_bytes(const fs::path& path) {
  if (!fs::exists(path)) throw Failure(path.string() + ": no such file");
  if (!fs::is_regular_file(path)) throw Failure(path.string() + ": not a regular file");
  std::ifstream file(path, std::ios::binary);
  Bytes content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad()) throw Failure(path.string() + ": cannot be read");
  return content;
}

Failure damaged(const fs::path& path, const std::string& why) {
  return Failure(path.string() + ": not an image that the runner reads, or damaged: " + why);
}

void check_size(const fs::path& path, std::int64_t height, std::int64_t width) {
  if (height < 1 || width < 1) throw damaged(path, "no pixels");
  if (height > kMostPixels / width) throw Failure(path.string() + ": too large");
}

std::uint8_t scaled(std::uint32_t value) {  // of 16 bits; halves upwards
  return static_cast<std::uint8_t>((2 * 255 * value + 65535) / (2 * 65535));
}

// ------------------------------------------------------------------------------------------------- EXIF orientation

// Of a TIFF header as EXIF has it.
[[maybe_unused]] std::optional<int> exif_orientation(const std::uint8_t* data, std::size_t size) {
  if (size < 8 || (std::memcmp(data, "II", 2) != 0 && std::memcmp(data, "MM", 2) != 0)) return std::nullopt;
  const bool is_little = data[0] == 'I';
  const auto number = [&](std::size_t place, int bytes) -> std::uint32_t {
    if (place + bytes > size) return 0;
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= std::uint32_t{data[place + i]} << 8 * (is_little ? i : bytes - 1 - i);
    return value;
  };
  const std::size_t directory = number(4, 4);
  if (directory + 2 > size) return std::nullopt;
  const std::size_t entries = number(directory, 2);
  for (std::size_t entry = 0; entry < entries; ++entry) {
    const std::size_t place = directory + 2 + 12 * entry;
    if (number(place, 2) != 0x0112) continue;
    const std::uint32_t type = number(place + 2, 2);
    return static_cast<int>(type == 1 ? number(place + 8, 1) : number(place + 8, type == 4 ? 4 : 2));
  }
  return std::nullopt;
}

[[maybe_unused]] int xmp_orientation(const std::string& text) {
  std::smatch match;
  static const std::regex pattern("tiff:Orientation(=\"|>)([0-9])");
  return std::regex_search(text, match, pattern) ? match[2].str()[0] - '0' : 1;
}

Image turned(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool swaps = orientation >= 5;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image upright{swaps ? image.width : image.height, swaps ? image.height : image.width, Bytes(image.pixels.size())};
  for (std::int64_t y = 0; y < upright.height; ++y) {
    for (std::int64_t x = 0; x < upright.width; ++x) {
      std::int64_t row = swaps ? x : y, column = swaps ? y : x;
      if (from_below) row = image.height - 1 - row;
      if (from_right) column = image.width - 1 - column;
      std::copy_n(&image.pixels[3 * (row * image.width + column)], 3, &upright.pixels[3 * (y * upright.width + x)]);
    }
  }
  return upright;
}

// -------------------------------------------------------------------------------------------------------------- PNM

// Binary PPM (P6) of 8 bits, and PGM (P5) of 8 or 16.
Image read_pnm(const fs::path& path, const Bytes& bytes) {
  std::size_t place = 2;
  const auto number = [&]() -> std::int64_t {
    while (place < bytes.size() && (std::isspace(bytes[place]) || bytes[place] == '#')) {
      if (bytes[place] == '#') {
        while (place < bytes.size() && bytes[place] != '\n') ++place;
      } else {
        ++place;
      }
    }
    std::int64_t value = 0;
    const std::size_t start = place;
    while (place < bytes.size() && std::isdigit(bytes[place]) && value < (std::int64_t{1} << 32)) {
      value = 10 * value + (bytes[place++] - '0');
    }
    if (place == start) throw damaged(path, "its header ends early");
    return value;
  };
  const bool is_grey = bytes[1] == '5';
  const std::int64_t width = number(), height = number(), maximum = number();
  ++place;
  check_size(path, height, width);
  if (maximum != 255 && !(is_grey && maximum == 65535)) {
    throw damaged(path, "PPM of 8 bits (255) and PGM of 8 or 16 bits (255, 65535) are read");
  }
  const std::size_t pixels = static_cast<std::size_t>(height * width);
  const std::size_t sample = maximum == 65535 ? 2 : 1, needed = pixels * (is_grey ? 1 : 3) * sample;
  if (place > bytes.size() || bytes.size() - place < needed) throw damaged(path, "it is truncated");
  Image image{height, width, Bytes(3 * pixels)};
  const std::uint8_t* data = bytes.data() + place;
  if (!is_grey) std::copy_n(data, needed, image.pixels.begin());
  for (std::size_t i = 0; is_grey && i < pixels; ++i) {
    const std::uint8_t value = sample == 1 ? data[i] : scaled(std::uint32_t{data[2 * i]} << 8 | data[2 * i + 1]);
    std::fill_n(&image.pixels[3 * i], 3, value);
  }
  return image;
}

// -------------------------------------------------------------------------------------------------------------- PNG

#ifdef PROTOSEG_PNG
struct PngInput {
  const Bytes& bytes;
  std::size_t place = 0;
  std::string error;
};

void png_take(png_structp png, png_bytep target, png_size_t count) {
  auto* input = static_cast<PngInput*>(png_get_io_ptr(png));
  if (input->bytes.size() - input->place < count) png_error(png, "it is truncated");
  std::memcpy(target, input->bytes.data() + input->place, count);
  input->place += count;
}

void png_failed(png_structp png, png_const_charp message) {
  static_cast<PngInput*>(png_get_error_ptr(png))->error = message;
  png_longjmp(png, 1);
}

void png_ignored(png_structp, png_const_charp) {}

struct PngPixels {  // outside of the function that libpng may jump back into
  std::int64_t height = 0, width = 0;
  int channels = 0, depth = 0, orientation = 1;
  bool has_deep_transparency = false;
  Bytes samples;
  std::vector<png_bytep> rows;
};

// Decodes into `found`; false where libpng fails. No objects with destructors live here: libpng ends with longjmp.
bool decode_png(png_structp png, png_infop info, const Reading& reading, PngPixels& found) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  png_read_info(png, info);
  found.height = png_get_image_height(png, info);
  found.width = png_get_image_width(png, info);
  if (found.height > kMostPixels / found.width) png_error(png, "too large");
  const int kind = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
  const bool has_key = png_get_valid(png, info, PNG_INFO_tRNS) != 0;
  const bool is_deep_grey = kind == PNG_COLOR_TYPE_GRAY && depth == 16;
  found.has_deep_transparency =
      has_key && reading.uses_alpha &&
      ((kind == PNG_COLOR_TYPE_RGB && depth == 16) || (kind == PNG_COLOR_TYPE_GRAY && depth < 8));
  png_uint_32 exif_size = 0;
  png_bytep exif = nullptr;
  bool is_known = false;
  if (png_get_eXIf_1(png, info, &exif_size, &exif) != 0) {
    const std::optional<int> orientation = exif_orientation(exif, exif_size);
    is_known = orientation.has_value();
    found.orientation = orientation.value_or(1);
  }
  png_textp texts = nullptr;
  const int count = is_known ? 0 : png_get_text(png, info, &texts, nullptr);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(texts[i].key, "XML:com.adobe.xmp") == 0) found.orientation = xmp_orientation(texts[i].text);
  }
  if (kind == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (kind == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (has_key && reading.uses_alpha && !is_deep_grey) png_set_tRNS_to_alpha(png);
  if (depth == 16 && !is_deep_grey) png_set_strip_16(png);
  if (!reading.uses_alpha) png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  found.channels = png_get_channels(png, info);
  found.depth = png_get_bit_depth(png, info);
  const std::size_t stride = png_get_rowbytes(png, info);
  found.samples.resize(stride * found.height);
  found.rows.resize(found.height);
  for (std::int64_t y = 0; y < found.height; ++y) found.rows[y] = found.samples.data() + stride * y;
  png_read_image(png, found.rows.data());
  png_read_end(png, nullptr);
  return true;
}

Image read_png(const fs::path& path, const Bytes& bytes, const Reading& reading, int& orientation) {
  PngInput input{bytes, 0, ""};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input, png_failed, png_ignored);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  if (info == nullptr) throw Failure("libpng cannot be used");
  png_set_read_fn(png, &input, png_take);
  PngPixels found;
  const bool is_read = decode_png(png, info, reading, found);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!is_read) throw damaged(path, input.error);
  if (found.has_deep_transparency) throw damaged(path, "a transparent colour of a PNG of this depth is not read");
  orientation = found.orientation;
  const std::size_t pixels = static_cast<std::size_t>(found.height * found.width);
  Image image{found.height, found.width, Bytes(3 * pixels)};
  const bool is_grey = found.channels <= 2, has_alpha = found.channels % 2 == 0;
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* from = &found.samples[i * found.channels * (found.depth / 8)];
    for (int c = 0; c < 3; ++c) {
      std::uint32_t value = found.depth == 16 ? scaled(std::uint32_t{from[0]} << 8 | from[1]) : from[is_grey ? 0 : c];
      if (has_alpha) {  // on black, rounded as Pillow does: value * alpha / 255
        const std::uint32_t product = value * from[found.channels - 1] + 128;
        value = ((product >> 8) + product) >> 8;
      }
      image.pixels[3 * i + c] = static_cast<std::uint8_t>(value);
    }
  }
  return image;
}

bool write_png(std::FILE* file, png_structp png, png_infop info, Size size, const std::vector<Color>& colors,
               png_text& text, std::vector<png_bytep>& rows) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_init_io(png, file);
  const bool is_indexed = colors.size() <= 256;
  png_set_IHDR(png, info, static_cast<png_uint_32>(size.second), static_cast<png_uint_32>(size.first),
               is_indexed ? 8 : 16, is_indexed ? PNG_COLOR_TYPE_PALETTE : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (is_indexed) {
    png_color palette[256];
    for (std::size_t i = 0; i < colors.size(); ++i) palette[i] = {colors[i][0], colors[i][1], colors[i][2]};
    png_set_PLTE(png, info, palette, static_cast<int>(colors.size()));
  }
  png_set_text(png, info, &text, 1);
  png_write_info(png, info);
  png_write_image(png, rows.data());
  png_write_end(png, nullptr);
  return true;
}
#endif

// ------------------------------------------------------------------------------------------------------------- JPEG

#ifdef PROTOSEG_JPEG
struct JpegError {
  jpeg_error_mgr manager;  // first: libjpeg knows nothing else
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

void jpeg_failed(j_common_ptr info) {
  auto* error = reinterpret_cast<JpegError*>(info->err);
  error->manager.format_message(info, error->message);
  std::longjmp(error->back, 1);
}

void jpeg_warned(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) jpeg_failed(info);
}

// Decodes into `image`; false where libjpeg fails. No objects with destructors live here: libjpeg ends with longjmp.
bool decode_jpeg(jpeg_decompress_struct& info, JpegError& error, const Bytes& bytes, Image& image, int& orientation) {
  if (setjmp(error.back)) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, const_cast<unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  if (info.num_components != 1 && info.num_components != 3) {
    std::strcpy(error.message, "JPEG of four colours is not read");
    return false;
  }
  bool is_known = false;
  int other = 1;
  for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (!is_known && marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      const std::optional<int> found = exif_orientation(marker->data + 6, marker->data_length - 6);
      is_known = found.has_value();
      orientation = found.value_or(1);
    } else if (marker->data_length > 29 && std::memcmp(marker->data, "http://ns.adobe.com/xap/1.0/", 29) == 0) {
      other = xmp_orientation(std::string(marker->data + 29, marker->data + marker->data_length));
    }
  }
  if (!is_known) orientation = other;
  info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_start_decompress(&info);
  image.height = info.output_height;
  image.width = info.output_width;
  if (image.height > kMostPixels / image.width) {
    std::strcpy(error.message, "too large");
    return false;
  }
  image.pixels.resize(3 * image.height * image.width);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = &image.pixels[3 * image.width * info.output_scanline];
    jpeg_read_scanlines(&info, &row, 1);
    for (std::int64_t x = image.width - 1; info.num_components == 1 && x >= 0; --x) {
      const std::uint8_t value = row[x];
      row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = value;
    }
  }
  jpeg_finish_decompress(&info);
  return true;
}

Image read_jpeg(const fs::path& path, const Bytes& bytes, int& orientation) {
  jpeg_decompress_struct info{};
  JpegError error{};
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = jpeg_failed;
  error.manager.emit_message = jpeg_warned;
  Image image;
  const bool is_read = decode_jpeg(info, error, bytes, image, orientation);
  jpeg_destroy_decompress(&info);
  if (!is_read) throw damaged(path, error.message);
  return image;
}
#endif

}  // namespace

std::vector<std::string> image_suffixes() {
  std::vector<std::string> suffixes = {".ppm", ".pgm"};
#ifdef PROTOSEG_PNG
  suffixes.emplace_back(".png");
#endif
#ifdef PROTOSEG_JPEG
  suffixes.insert(suffixes.end(), {".jpg", ".jpeg"});
#endif
  return suffixes;
}

void check_reading(const Reading& reading) {
  if (reading.unsupported.empty()) return;
  throw Failure("this network's images are read with " + reading.unsupported + ", which the runner does not do",
                "Use `protoseg predict`, or Segmenter::segment with images that were read in that way.");
}

Image read_image(const fs::path& path, const Reading& reading) {
  check_reading(reading);
  const Bytes bytes = read_bytes(path);
  int orientation = 1;
  const auto starts = [&](const char* signature, std::size_t count) {
    return bytes.size() > count && std::memcmp(bytes.data(), signature, count) == 0;
  };
  Image image;
  if (starts("P6", 2) || starts("P5", 2)) {
    image = read_pnm(path, bytes);
#ifdef PROTOSEG_PNG
  } else if (starts("\x89PNG\r\n\x1a\n", 8)) {
    image = read_png(path, bytes, reading, orientation);
#endif
#ifdef PROTOSEG_JPEG
  } else if (starts("\xff\xd8\xff", 3)) {
    image = read_jpeg(path, bytes, orientation);
#endif
  } else {
    std::string kinds;
    for (const std::string& suffix : image_suffixes()) kinds += " " + suffix;
    throw damaged(path, "this build reads" + kinds);
  }
  return reading.uses_exif ? turned(std::move(image), orientation) : image;
}

std::string mask_suffix() {
#ifdef PROTOSEG_PNG
  return ".png";
#else
  return ".pgm";
#endif
}

void write_mask(const fs::path& path, const std::vector<std::int32_t>& class_map, Size size,
                const std::vector<Color>& colors, const std::string& digest) {
  const std::size_t sample = colors.size() <= 256 ? 1 : 2;
  Bytes samples(class_map.size() * sample);
  for (std::size_t i = 0; i < class_map.size(); ++i) {
    if (sample == 2) samples[2 * i] = static_cast<std::uint8_t>(class_map[i] >> 8);
    samples[sample * i + sample - 1] = static_cast<std::uint8_t>(class_map[i]);
  }
  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  const fs::path scratch = path.parent_path() / ("." + path.filename().string() + ".tmp");
  std::FILE* file = std::fopen(scratch.string().c_str(), "wb");
  if (file == nullptr) throw Failure(scratch.string() + ": cannot be written: " + std::strerror(errno));
  bool is_written = false;
#ifdef PROTOSEG_PNG
  PngInput errors{samples, 0, ""};
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &errors, png_failed, png_ignored);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  if (info != nullptr) {
    std::string key = kMark, value = digest;
    png_text text{};
    text.compression = PNG_TEXT_COMPRESSION_NONE;
    text.key = key.data();
    text.text = value.data();
    text.text_length = value.size();
    std::vector<png_bytep> rows(size.first);
    for (std::int64_t y = 0; y < size.first; ++y) rows[y] = samples.data() + y * size.second * sample;
    is_written = write_png(file, png, info, size, colors, text, rows);
  }
  png_destroy_write_struct(&png, &info);
#else
  is_written = std::fprintf(file, "P5\n# %s %s\n%lld %lld\n%d\n", kMark, digest.c_str(),
                            static_cast<long long>(size.second), static_cast<long long>(size.first),
                            sample == 1 ? 255 : 65535) > 0 &&
               std::fwrite(samples.data(), 1, samples.size(), file) == samples.size();
#endif
  is_written = std::fclose(file) == 0 && is_written;
  std::error_code error;
  if (is_written) fs::rename(scratch, path, error);
  if (!is_written || error) {
    fs::remove(scratch, error);
    throw Failure(path.string() + ": cannot be written");
  }
}

bool is_mask(const fs::path& path) {
  if (fs::is_symlink(path) || !fs::is_regular_file(path)) return false;
  std::ifstream file(path, std::ios::binary);
  std::string head(4096, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  return head.find(kMark) != std::string::npos;
}

}  // namespace protoseg
