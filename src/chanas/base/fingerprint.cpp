#include "chanas/base/fingerprint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

namespace chanas {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    CHANAS_CHECK(context_ != nullptr &&
                 EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1)
        << "OpenSSL offers no SHA-256";
  }

  void update(const void* bytes, size_t size) {
    CHANAS_CHECK(EVP_DigestUpdate(context_.get(), bytes, size) == 1);
  }

  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    CHANAS_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1 && size == 32);
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    text.reserve(2 * size);
    for (unsigned int i = 0; i < size; ++i) {
      text += kDigits[digest[i] >> 4];
      text += kDigits[digest[i] & 15];
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  Sha256 sha;
  sha.update(bytes.data(), bytes.size());
  return sha.hex();
}

StatusOr<std::string> sha256_file(const std::string& path) {
  const auto unreadable = [&] {
    return absl::NotFoundError(fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return unreadable();
  Sha256 sha;
  std::vector<char> chunk(1 << 18);
  for (;;) {
    const ssize_t got = ::read(file, chunk.data(), chunk.size());
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const Status status = unreadable();
      ::close(file);
      return status;
    }
    sha.update(chunk.data(), static_cast<size_t>(got));
  }
  ::close(file);
  return sha.hex();
}

std::string fingerprint(std::string_view bytes) { return sha256_hex(bytes).substr(0, 16); }

std::string files_fingerprint(const std::string& path) {
  namespace fs = std::filesystem;
  std::vector<std::string> lines;
  auto add = [&](const fs::path& file) {
    struct stat info = {};
    if (::stat(file.c_str(), &info) != 0) return;
    lines.push_back(fmt::format("{} {} {}.{}", file.string(), info.st_size, info.st_mtim.tv_sec,
                                info.st_mtim.tv_nsec));
  };
  add(path);
  std::error_code error;
  for (fs::recursive_directory_iterator file(path, error), end; !error && file != end;
       file.increment(error)) {
    add(file->path());
  }
  std::sort(lines.begin(), lines.end());
  return fingerprint(fmt::format("{}", fmt::join(lines, "\n")));
}

}  // namespace chanas
