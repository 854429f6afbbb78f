#pragma once
// A picture of a data set for people.

#include "chanas/data/dataset.h"
#include "chanas/data/image.h"

namespace chanas {

// A row per class with the first `columns` images of a part, small images enlarged.
RgbImage contact_sheet(const Dataset& dataset, Part part, int columns);

}  // namespace chanas
