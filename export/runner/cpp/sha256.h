#pragma once

#include <cstddef>
#include <string>

namespace protoseg {

// SHA-256 (FIPS 180-4) of bytes, in hexadecimal.
std::string sha256(const void* data, std::size_t size);

}  // namespace protoseg
