#include "chanas/codegen/lowering.h"

#include <fmt/core.h>

namespace chanas {

using Halide::Expr;

Expr activate(Activation activation, const Expr& x) {
  const auto relu6 = [](const Expr& v) { return min(max(v, 0.0f), 6.0f); };
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return max(x, 0.0f);
    case Activation::kRelu6:
      return relu6(x);
    case Activation::kHSwish:
      return x * relu6(x + 3.0f) * (1.0f / 6);
    case Activation::kSigmoid:
      // Halide's own exponential: never a call into the C library.
      return 1.0f / (1.0f + Halide::Internal::halide_exp(-x));
    case Activation::kHSigmoid:
      return relu6(x + 3.0f) * (1.0f / 6);
  }
  return x;
}

Lowering::Lowering(const ScheduleSpace& space, const Schedule& schedule)
    : space_(space),
      roles_(op_roles(space.workload)),
      tiles_(resolve(space, roles_, schedule)),
      packing_(packing(space, schedule)),
      weights_(Halide::Float(32), 1, "weights") {
  const int count = static_cast<int>(roles_.size());
  packed_.resize(count);
  inputs_.resize(count);
  values_.resize(count);
  copies_.resize(count);
  scaled_weights_.resize(count);
  for (const PackedOp& packed : packing_.ops) packed_[packed.op] = &packed;
  weights_.dim(0).set_bounds(0, static_cast<int>(packing_.size));
  weights_.set_host_alignment(64);
  for (int i = 0; i < count; ++i) {
    if (external(i)) {
      inputs_[i] = Halide::ImageParam(Halide::Float(32), 1, name(i));
      inputs_[i].dim(0).set_bounds(0, static_cast<int>(op(i).shape.elements()));
      inputs_[i].set_host_alignment(64);
      continue;
    }
    if (tiles_[i].folded) continue;
    Body body;
    switch (op(i).kind) {
      case OpKind::kConv2d:
        body = convolution(i);
        break;
      case OpKind::kDepthwise:
        body = depthwise(i);
        break;
      case OpKind::kGlobalPool:
        body = pool(i);
        break;
      default:
        body = pointwise(i);
    }
    if (tiles_[i].parts > 1) body = parts_stage(i, body);
    if (roles_[i].final)
      output_stage(i, body);
    else
      inner_stage(i, body);
  }
}

std::vector<Halide::Argument> Lowering::arguments() const {
  std::vector<Halide::Argument> result;
  for (const Halide::ImageParam& input : inputs_)
    if (input.defined()) result.push_back(input);
  result.push_back(weights_);
  return result;
}

std::unique_ptr<Halide::Internal::IRMutator> Lowering::prefetch(
    const std::vector<PrefetchRange>& weights) const {
  std::map<std::string, DenseReduction> reductions;
  bool inputs = false;
  for (size_t i = 0; i < roles_.size(); ++i) {
    const int index = static_cast<int>(i);
    if (op(index).kind != OpKind::kConv2d) continue;
    const TileInput input = tile_input(index);
    inputs |= !input.buffer.empty();
    reductions[name(index)] = {input, new_rows(index)};
  }
  if (weights.empty() && !inputs) return nullptr;
  return std::make_unique<PrefetchAhead>(std::move(reductions), weights_.name(), weights,
                                         space_.threads);
}

TileInput Lowering::tile_input(int index) const {
  const Op& conv = op(index);
  int data = conv.inputs[0];
  if (!external(data) && tiles_[data].folded) data = op(data).inputs[0];
  // One core has its own lines in its caches; only the pixels of 1x1 windows lie in one piece.
  if (space_.threads == 1 || gpu() || !external(data) || conv.kernel > 1 || conv.stride > 1)
    return {};
  const OpTile& tile = tiles_[index];
  return {inputs_[data].name(), int64_t{tile.pixels} * op(data).shape.c};
}

std::string Lowering::name(int index, const char* part) const {
  return fmt::format("op{}{}", index, part);
}

Expr Lowering::first_channel(int index, const Expr& c) const {
  const OpTile& tile = tiles_[index];
  const int channels = tiles_[index].view.c;
  if (tile.vectors * tile.vector == channels) return c * tile.vector;
  return min(c * tile.vector, channels - tile.vector);
}

Expr Lowering::lanes(int reader, int value, const Place& place) const {
  if (!external(value)) {
    const bool pixel = tiles_[value].padded_h * tiles_[value].padded_w == 1;  // a gate
    return values_[value](place.v, pixel ? 0 : place.x, pixel ? 0 : place.y, place.c);
  }
  const Shape& shape = op(value).shape;
  const Expr channel = first_channel(reader, place.c) + place.v;
  if (shape.h * shape.w == 1) return inputs_[value](channel);
  return inputs_[value](channel + shape.c * (place.x + shape.w * place.y));
}

Expr Lowering::channel(int value, const Step& step, Expr x, Expr y) const {
  if (external(value)) {
    const Shape& shape = op(value).shape;
    const Expr k = step.width * step.number + step.beside;
    if (shape.h * shape.w == 1) return inputs_[value](k);
    return inputs_[value](k + shape.c * (x + shape.w * y));
  }
  const OpTile& tile = tiles_[value];
  if (tile.folded) {
    const Expr in = channel(op(value).inputs[0], step, x, y);
    return tile.scale == 2 ? in : in * channel(op(value).inputs[1], step, x, y);
  }
  const Shape& view = tiles_[value].view;
  if (tiles_[value].padded_h * tiles_[value].padded_w == 1) x = y = 0;
  // The last vector of lanes overlaps the one before it where the channels do not fill it.
  const int needed = needed_vectors(view.c, tile.vector);
  const int vector = tile.vector / step.width;  // in groups of steps, as all below
  const int excess = needed * vector - view.c / step.width;
  Expr group = step.number;
  if (excess > 0) group = select(group < (needed - 1) * vector, group, group + excess);
  return values_[value](step.width * (group % vector) + step.beside, x, y, group / vector);
}

Expr Lowering::bias(int index, const Place& place) const {
  const PackedOp* packed = packed_[index];
  if (!packed || packed->bias_size == 0) return 0.0f;
  return weights_(static_cast<int>(packed->bias_offset) + place.c * packed->vector + place.v);
}

Expr Lowering::epilogue(int index, Expr value, const Place& place) const {
  if (!is_convolution(op(index).kind)) return value;
  value = activate(op(index).act, value);
  if (op(index).residual) value += lanes(index, op(index).inputs.back(), place);
  return value;
}

}  // namespace chanas
