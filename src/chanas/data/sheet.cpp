#include "chanas/data/sheet.h"

#include <algorithm>

namespace chanas {

RgbImage contact_sheet(const Dataset& dataset, Part part, int columns) {
  constexpr int kGap = 4, kCellAtLeast = 96;
  const int size = dataset.size(), scale = (kCellAtLeast + size - 1) / size;
  const int cell = size * scale + kGap, rows = static_cast<int>(dataset.classes.size());
  RgbImage sheet{columns * cell + kGap, rows * cell + kGap, {}};
  sheet.pixels.assign(static_cast<size_t>(sheet.width) * static_cast<size_t>(sheet.height) * 3,
                      255);
  std::vector<int> filled(dataset.classes.size());
  for (const int image : dataset.part(part)) {
    const int row = dataset.labels[static_cast<size_t>(image)];
    const int column = filled[static_cast<size_t>(row)]++;
    if (column >= columns) continue;
    const uint8_t* from = dataset.store.image(image);
    for (int y = 0; y < size * scale; ++y) {
      for (int x = 0; x < size * scale; ++x) {
        const int to_y = kGap + row * cell + y, to_x = kGap + column * cell + x;
        std::copy_n(from + ((y / scale) * size + x / scale) * 3, 3,
                    &sheet.pixels[static_cast<size_t>(to_y * sheet.width + to_x) * 3]);
      }
    }
  }
  return sheet;
}

}  // namespace chanas
