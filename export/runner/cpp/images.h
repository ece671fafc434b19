// Image files to uint8 RGB, and class maps to files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bundle.h"

namespace protoseg {

struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> pixels;  // [height * width * 3], RGB
};

// Endings of the files that are read, in lower case: .ppm and .pgm; .png and .jpg where libpng and libjpeg were found.
std::vector<std::string> image_suffixes();

// Throws Failure where a manifest wants images to be read in a way that is not implemented here.
void check_reading(const Reading& reading);

// An image as the manifest says: grey is repeated, 16-bit grey scaled by its full range, transparency composited on
// black, orientation applied. Throws Failure where it is damaged.
Image read_image(const std::filesystem::path& path, const Reading& reading);

// ".png" where libpng was found, ".pgm" otherwise.
std::string mask_suffix();

// A class map as palette PNG or PGM (16 bits above 256 classes) with the digest of the graph inside, written whole or
// not at all. Throws Failure.
void write_mask(const std::filesystem::path& path, const std::vector<std::int32_t>& class_map, Size size,
                const std::vector<Color>& colors, const std::string& digest);

// Whether a file is a mask that a runner has written.
bool is_mask(const std::filesystem::path& path);

}  // namespace protoseg
