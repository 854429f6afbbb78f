"""Values of plain PyTorch that reference_test.cpp compares with.

Run with any Python that has torch (made with 2.11.0, CPU):  python3 make_reference.py
It writes layers.safetensors and steps.safetensors beside itself. Written from the description of the
network, not from our code: NCHW, autograd, torch.optim.SGD.
"""
import json
import math
import pathlib
import struct

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
torch.manual_seed(11)
torch.set_num_threads(1)

RATE = 0.05  # of the ten steps
SMALL = 400  # numbers of a tensor whose end is kept


def save(name, tensors):
    header, data = {}, b""
    for key in sorted(tensors):
        t = tensors[key].detach().to(torch.float32).contiguous()
        raw = bytes(t.view(-1).view(torch.uint8).tolist())
        header[key] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (HERE / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def nhwc(t):
    return t.permute(0, 2, 3, 1)


ACT = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hsigmoid": F.hardsigmoid,
}


def alpha_divergence(logits, teacher, clip):
    """Value and gradient of the adaptive divergence, row by row from its definition."""
    total, gradient = 0.0, torch.zeros_like(logits)
    n = logits.shape[0]
    for row in range(n):
        q, p = torch.softmax(logits[row], 0).double(), torch.softmax(teacher[row], 0).double()
        ratio = torch.clamp(q / p, max=clip)  # (p / q) ** -1
        backward = 0.5 * ((q * ratio).sum() - 1)
        forward = (p * torch.log(p / q)).sum()
        # Weights of d log q: -1 / alpha * q * (p / q) ** alpha.
        weights = q * ratio if backward > forward else -p
        total += max(backward, forward).item() / n
        # d log q_i / d logit_j = (i == j) - q_j
        gradient[row] = ((weights - weights.sum() * q) / n).float()
    return torch.tensor(total), gradient


def layers():
    out = {}

    def case(name, inputs, function, layout=nhwc):
        """Forward value and the gradients of all inputs under a random upstream gradient."""
        leaves = {k: v.clone().requires_grad_(True) for k, v in inputs.items()}
        y = function(**leaves)
        upstream = torch.randn_like(y)
        y.backward(upstream)
        put = lambda t: layout(t) if t.dim() == 4 and layout else t
        for k, v in leaves.items():
            image = k in ("x", "residual")
            out[f"{name}/{k}"] = put(v) if image else v
            out[f"{name}/d_{k}"] = put(v.grad) if image else v.grad
        out[f"{name}/y"], out[f"{name}/d_y"] = put(y), put(upstream)

    for kernel in (3, 5, 7):
        for stride in (1, 2):
            inputs = {"x": torch.randn(2, 11, 7, 7), "weight": torch.randn(11, 1, kernel, kernel)}
            case(f"depthwise/{kernel}/{stride}", inputs,
                 lambda x, weight: F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=11))
    for act in ("none", "relu", "relu6", "hswish"):
        inputs = {"x": 2 * torch.randn(3, 9, 4, 4) + 0.5, "weight": torch.randn(9), "bias": torch.randn(9)}
        case(f"batch_norm/{act}", inputs,
             lambda x, weight, bias: ACT[act](F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-5)))
    case("batch_norm_residual/none",
         {"x": torch.randn(3, 9, 4, 4), "weight": torch.randn(9), "bias": torch.randn(9),
          "residual": torch.randn(3, 9, 4, 4)},
         lambda x, weight, bias, residual: F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-5) + residual)
    for gate in ("sigmoid", "hsigmoid"):
        inputs = {"x": torch.randn(2, 12, 5, 5), "reduce_weight": torch.randn(8, 12), "reduce_bias": torch.randn(8),
                  "expand_weight": torch.randn(12, 8), "expand_bias": torch.randn(12)}

        def squeeze_excite(x, reduce_weight, reduce_bias, expand_weight, expand_bias):
            s = F.relu(F.linear(x.mean((2, 3)), reduce_weight, reduce_bias))
            return x * ACT[gate](F.linear(s, expand_weight, expand_bias))[:, :, None, None]

        case(f"squeeze_excite/{gate}", inputs, squeeze_excite)

    logits, teacher = 2 * torch.randn(6, 5), 3 * torch.randn(6, 5)
    labels = torch.tensor([0, 3, 2, 4, 1, 1])
    out["loss/labels"], out["loss/teacher"] = labels.float(), teacher
    other = 0.5 * torch.randn(6, 5) + torch.eye(5)[labels] * 3  # a smaller loss than that of logits
    for sign in ("above", "below"):
        first, second = (logits, other) if sign == "above" else (other, logits)
        for kind in ("label", "soft", "absolute", "one_sided", "stop_loss", "stop_other"):
            a, b = first.clone().requires_grad_(True), second.clone().requires_grad_(True)
            x, y = F.cross_entropy(a, labels, label_smoothing=0.1), F.cross_entropy(b, labels, label_smoothing=0.1)
            loss = {
                "label": lambda: x + 0 * y,
                "soft": lambda: F.cross_entropy(a, torch.softmax(teacher, 1)) + 0 * y,
                "absolute": lambda: x + 0.45 * (y - x).abs(),
                "one_sided": lambda: x + 0.45 * torch.clamp(y - x, min=0),
                "stop_loss": lambda: x + 0.45 * (y - x.detach()).abs(),
                "stop_other": lambda: x + 0.45 * (y.detach() - x).abs(),
            }[kind]()
            loss.backward()
            name = f"loss/{kind}/{sign}"
            out[f"{name}/x"], out[f"{name}/other"], out[f"{name}/y"] = a, b, loss
            out[f"{name}/d_x"] = a.grad
            out[f"{name}/d_other"] = b.grad if b.grad is not None else torch.zeros_like(b)
    for clip in (2, 5, 1000):
        out[f"alpha/{clip}/x"] = logits
        out[f"alpha/{clip}/y"], out[f"alpha/{clip}/d_x"] = alpha_divergence(logits, teacher, clip)
    save("layers.safetensors", out)


def divisible(v):
    n = max(8, int(v + 4) // 8 * 8)
    return n + 8 if n < 0.9 * v else n


class Net:
    """The space of the test: tiny_space() of testing.cpp without dropout."""

    STEM, FIRST, BLOCKS, HEAD, MIX, CLASSES = 8, 8, [(8, 1, False, "relu"), (16, 2, True, "hswish")], 24, 32, 3
    DEPTH = 2

    def __init__(self):
        self.w = {}
        wide = lambda c: divisible(c * 1.3)

        def conv(name, *shape):
            self.w[name] = torch.randn(shape) * math.sqrt(1.5 / math.prod(shape[1:]))

        def norm(name, c):
            self.w[name + ".weight"] = 1 + 0.2 * torch.randn(c)
            self.w[name + ".bias"] = 0.2 * torch.randn(c)

        conv("stem.conv.weight", wide(self.STEM), 3, 3, 3)
        norm("stem.bn", wide(self.STEM))
        c, slot = wide(self.STEM), 0

        def unit(out, kernel, expand, se, has_expand):
            nonlocal c, slot
            p, mid = f"units.{slot}.", divisible(round(c * expand)) if has_expand else c
            if has_expand:
                conv(p + "expand.conv.weight", mid, c, 1, 1)
                norm(p + "expand.bn", mid)
            conv(p + "depthwise.conv.weight", mid, 1, kernel, kernel)
            norm(p + "depthwise.bn", mid)
            if has_expand:
                self.w[p + "depthwise.transform.5to3"] = torch.eye(9) + 0.05 * torch.randn(9, 9)
            if se:
                s = divisible(mid / 4)
                conv(p + "se.reduce.weight", s, mid, 1, 1)
                conv(p + "se.expand.weight", mid, s, 1, 1)
                self.w[p + "se.reduce.bias"], self.w[p + "se.expand.bias"] = torch.randn(s), torch.randn(mid)
            conv(p + "project.conv.weight", out, mid, 1, 1)
            norm(p + "project.bn", out)
            c, slot = out, slot + 1

        unit(wide(self.FIRST), 3, 1, False, False)
        for channels, _, se, _ in self.BLOCKS:
            for _ in range(self.DEPTH):
                unit(wide(channels), 5, 4, se, True)
        conv("head.conv.weight", wide(self.HEAD), c, 1, 1)
        norm("head.bn", wide(self.HEAD))
        conv("mix.weight", wide(self.MIX), wide(self.HEAD), 1, 1)
        conv("classifier.weight", self.CLASSES, wide(self.MIX), 1, 1)
        self.w["classifier.bias"] = 0.1 * torch.randn(self.CLASSES)
        self.w = {k: v.requires_grad_(True) for k, v in self.w.items()}

    def norm(self, x, name):
        c = x.shape[1]
        return F.batch_norm(x, None, None, self.w[name + ".weight"][:c], self.w[name + ".bias"][:c], True, 0.1, 1e-5)

    def conv1(self, x, name, out):
        return F.conv2d(x, self.w[name + ".weight"][:out, : x.shape[1]])

    def unit(self, x, slot, out, kernel, expand, stride, se, act, has_expand):
        p, c = f"units.{slot}.", x.shape[1]
        mid = divisible(round(c * expand)) if has_expand else c
        y = ACT[act](self.norm(self.conv1(x, p + "expand.conv", mid), p + "expand.bn")) if has_expand else x
        w = self.w[p + "depthwise.conv.weight"][:mid]
        if kernel < w.shape[2]:
            w = (w[:, :, 1:4, 1:4].reshape(mid, 9) @ self.w[p + "depthwise.transform.5to3"].t()).view(mid, 1, 3, 3)
        y = ACT[act](self.norm(F.conv2d(y, w, stride=stride, padding=kernel // 2, groups=mid), p + "depthwise.bn"))
        if se:
            hidden = divisible(mid / 4)
            s = F.relu(self.conv1(y.mean((2, 3), True), p + "se.reduce", hidden)
                       + self.w[p + "se.reduce.bias"][:hidden].view(1, -1, 1, 1))
            y = y * F.hardsigmoid(self.conv1(s, p + "se.expand", mid)
                                  + self.w[p + "se.expand.bias"][:mid].view(1, -1, 1, 1))
        y = self.norm(self.conv1(y, p + "project.conv", out), p + "project.bn")
        return y + x if stride == 1 and c == out else y

    def logits(self, x, arch):
        width, depths, genes = arch
        scaled = lambda c: divisible(c * width)
        x = F.conv2d(x, self.w["stem.conv.weight"][: scaled(self.STEM)], stride=2, padding=1)
        x = F.hardswish(self.norm(x, "stem.bn"))
        x = self.unit(x, 0, scaled(self.FIRST), 3, 1, 1, False, "relu", False)
        for b, (channels, stride, se, act) in enumerate(self.BLOCKS):
            for u in range(depths[b]):
                kernel, expand = genes[b * self.DEPTH + u]
                x = self.unit(x, 1 + b * self.DEPTH + u, scaled(channels), kernel, expand,
                              stride if u == 0 else 1, se, act, True)
        x = F.hardswish(self.norm(self.conv1(x, "head.conv", scaled(self.HEAD)), "head.bn")).mean((2, 3), True)
        x = F.hardswish(self.conv1(x, "mix", scaled(self.MIX)))
        return (self.conv1(x, "classifier", self.CLASSES) + self.w["classifier.bias"].view(1, -1, 1, 1)).flatten(1)


def train(start, batches, archs, gap, dtype):
    """Losses of the largest network on the labels, and the small tensors at the end."""
    net = Net()
    for k in net.w:
        net.w[k] = start[k].detach().clone().to(dtype).requires_grad_(True)
    optimiser = torch.optim.SGD(
        [{"params": [v for v in net.w.values() if v.dim() == 4], "weight_decay": 3e-5},
         {"params": [v for v in net.w.values() if v.dim() != 4]}], lr=RATE, momentum=0.9, nesterov=True)
    losses = []
    for (images, labels), nets in zip(batches, archs):
        # As if a weight that no network of the step has used had the gradient 0: momentum carries it on,
        # as it does the unused channels of a weight that is used. (None would leave it where it is.)
        optimiser.zero_grad(set_to_none=False)
        teachers = [None, None]
        for i, arch in enumerate(nets):
            parts = []
            for part in range(2 if gap else 1):
                logits = net.logits(images[part].to(dtype), arch)
                if i == 0:
                    teachers[part] = torch.softmax(logits.detach(), 1)
                    parts.append(F.cross_entropy(logits, labels[part], label_smoothing=0.1))
                else:
                    parts.append(F.cross_entropy(logits, teachers[part]))
            if i == 0:
                losses.append(parts[0].item())
            (parts[0] + 0.45 * (parts[1] - parts[0]).abs() if gap else parts[0]).backward()
        optimiser.step()
    small = {k: v.detach().double() for k, v in net.w.items() if v.numel() <= SMALL}
    return torch.tensor(losses, dtype=torch.float64), small


def steps():
    """Ten steps of the sandwich, plain and with the printed gap loss, from the same weights."""
    out = {}
    batches, archs = [], []
    for step in range(10):
        labels = torch.randint(0, 3, (2, 6))
        images = torch.randn(2, 6, 3, 12, 12) + 0.5 * labels[:, :, None, None, None]
        batches.append((images, labels))
        out[f"images/{step}"], out[f"labels/{step}"] = images.permute(0, 1, 3, 4, 2), labels.float()
        random = (1.3 if step % 2 else 1.0, [1 + step % 2, 2 - step % 3 // 2],
                  [(3 if (step + i) % 3 else 5, 3 + (step // 2 + i) % 2) for i in range(4)])
        archs.append([(1.3, [2, 2], [(5, 4)] * 4), random, (1.0, [1, 1], [(3, 3)] * 4)])
        flat = [random[0], *random[1], *[v for gene in random[2] for v in gene]]
        out[f"arch/{step}"] = torch.tensor(flat, dtype=torch.float32)
    start = Net().w
    for k, v in start.items():
        out[f"weight/{k}"] = v
    for kind in ("plain", "gap"):
        # The values are those of float64; how far float32 strays from them says what rounding explains.
        losses, end = train(start, batches, archs, kind == "gap", torch.float64)
        narrow_losses, narrow_end = train(start, batches, archs, kind == "gap", torch.float32)
        rounding = (narrow_losses - losses).abs().max()
        # Near a kink of an activation a last bit decides on which side of it an element lies.
        assert rounding < 5e-7, "ill-conditioned; take another RATE"
        out[f"losses/{kind}"], out[f"losses_rounding/{kind}"] = losses, rounding
        for k, v in end.items():
            out[f"end/{kind}/{k}"] = v
        out[f"end_rounding/{kind}"] = torch.stack([(narrow_end[k] - end[k]).abs().max() for k in end]).max()
    save("steps.safetensors", out)


layers()
steps()
