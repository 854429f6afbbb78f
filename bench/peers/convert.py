"""A graph file and its weights (graph.json, weights.safetensors of an exported folder) as TensorFlow
Lite and ncnn models and as a PyTorch module. The graph is fused: convolutions carry bias, activation
and residual. Values are named v<index of the op>."""
import json
import struct

import numpy as np


class Model:
    """ops: the graph's, as in the file, each with its arrays W and b where it has them."""

    def __init__(self, folder):
        self.ops = json.loads((folder / "graph.json").read_text())["ops"]
        tensors = read_safetensors(folder / "weights.safetensors")
        for op in self.ops:
            op.setdefault("kernel", 1)
            op.setdefault("stride", 1)
            op.setdefault("act", "none")
            if op["kind"] in ("conv2d", "depthwise"):
                op["W"] = tensors[op["name"] + ".weight"]
                op["b"] = tensors.get(op["name"] + ".bias")
                if op["b"] is None:
                    op["b"] = np.zeros(op["shape"][2], np.float32)
            elif op["kind"] not in ("input", "global_pool", "scale"):
                raise ValueError(f"op {op['name']}: {op['kind']} is not converted")

    def input_shape(self):
        """NCHW"""
        h, w, c = self.ops[0]["shape"]
        return (1, c, h, w)

    def is_linear(self, index):
        """A convolution that a framework would write as a linear layer: only such follow it."""
        return all(op["kind"] == "conv2d" and self.source(op)["shape"][:2] == [1, 1]
                   for op in self.ops[index:])

    def source(self, op):
        return self.ops[op["inputs"][0]]


def read_safetensors(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    return {name: np.frombuffer(data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]],
                                "<f4").reshape(t["shape"])
            for name, t in header.items() if name != "__metadata__"}


def write_tflite(model, path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as S
    B, F, O = S.BuiltinOperator, S.ActivationFunctionType, S.BuiltinOptions
    graph, file = S.SubGraphT(), S.ModelT()
    graph.tensors, graph.operators, graph.name = [], [], b"main"
    file.version, file.buffers, file.operatorCodes, file.subgraphs = 3, [S.BufferT()], [], [graph]
    codes = {}

    def tensor(shape, data=None, type_=S.TensorType.FLOAT32):
        t = S.TensorT()
        t.shape, t.type, t.buffer = list(shape), type_, 0
        t.name = f"t{len(graph.tensors)}".encode()
        if data is not None:
            buffer = S.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            file.buffers.append(buffer)
            t.buffer = len(file.buffers) - 1
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    def add(code, inputs, shape, options=None, **fields):
        """Returns the tensor that the new operator makes."""
        if code not in codes:
            codes[code] = len(file.operatorCodes)
            c = S.OperatorCodeT()
            c.builtinCode, c.deprecatedBuiltinCode, c.version = code, min(code, 127), 1
            file.operatorCodes.append(c)
        op = S.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = codes[code], list(inputs), [tensor(shape)]
        if options:
            op.builtinOptionsType, op.builtinOptions = getattr(O, options), getattr(S, options + "T")()
            for name, value in fields.items():
                setattr(op.builtinOptions, name, value)
        graph.operators.append(op)
        return op.outputs[0]

    values = []
    for index, op in enumerate(model.ops):
        shape = [1, *op["shape"]]
        inputs = [values[i] for i in op.get("inputs", [])]
        if op["kind"] == "input":
            values.append(tensor(shape))
            continue
        if op["kind"] == "global_pool":
            axes = tensor([2], np.array([1, 2], np.int32), S.TensorType.INT32)
            values.append(add(B.MEAN, [inputs[0], axes], shape, "ReducerOptions", keepDims=True))
            continue
        if op["kind"] == "scale":
            values.append(add(B.MUL, inputs, shape, "MulOptions"))
            continue
        act = {"relu": F.RELU, "relu6": F.RELU6}.get(op["act"], F.NONE)
        bias, W = tensor([len(op["b"])], op["b"]), op["W"]
        if model.is_linear(index):
            shape = [1, op["shape"][2]]
            W = W[:, :, 0, 0]
            value = add(B.FULLY_CONNECTED, [inputs[0], tensor(W.shape, W), bias], shape,
                        "FullyConnectedOptions", fusedActivationFunction=act)
        else:
            source, padding = inputs[0], S.Padding.SAME
            if op["stride"] > 1 and op["kernel"] > 1:
                # TensorFlow's SAME is not symmetric at strides; XNNPACK folds the padding in.
                p = op["kernel"] // 2
                h, w, c = model.source(op)["shape"]
                pads = tensor([4, 2], np.array([[0, 0], [p, p], [p, p], [0, 0]], np.int32),
                              S.TensorType.INT32)
                source = add(B.PAD, [source, pads], [1, h + 2 * p, w + 2 * p, c], "PadOptions")
                padding = S.Padding.VALID
            fields = dict(padding=padding, strideW=op["stride"], strideH=op["stride"],
                          dilationWFactor=1, dilationHFactor=1, fusedActivationFunction=act)
            if op["kind"] == "depthwise":
                W = W[:, 0].transpose(1, 2, 0)[None]
                value = add(B.DEPTHWISE_CONV_2D, [source, tensor(W.shape, W), bias], shape,
                            "DepthwiseConv2DOptions", depthMultiplier=1, **fields)
            else:
                W = W.transpose(0, 2, 3, 1)
                value = add(B.CONV_2D, [source, tensor(W.shape, W), bias], shape, "Conv2DOptions",
                            **fields)
        if op["act"] == "hswish":
            value = add(B.HARD_SWISH, [value], shape, "HardSwishOptions")
        elif op["act"] == "sigmoid":
            value = add(B.LOGISTIC, [value], shape)
        elif op["act"] == "hsigmoid":  # as Keras writes it: relu6(x + 3) / 6
            value = add(B.ADD, [value, tensor([1], np.array([3], np.float32))], shape, "AddOptions",
                        fusedActivationFunction=F.RELU6)
            value = add(B.MUL, [value, tensor([1], np.array([1 / 6], np.float32))], shape, "MulOptions")
        if op.get("residual"):
            value = add(B.ADD, [value, inputs[1]], shape, "AddOptions")
        values.append(value)
    graph.inputs, graph.outputs = [values[0]], [values[-1]]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def write_ncnn(model, base):
    """base.param and base.bin; input blob "v0", the output is the last blob."""
    readers = {}  # of each value; ncnn wants one blob for each
    for op in model.ops:
        for i in op.get("inputs", []):
            readers[i] = readers.get(i, 0) + 1
    read = dict.fromkeys(readers, 0)
    lines, weights, blobs = [], [], 0

    def emit(kind, name, inputs, outputs, parameters=""):
        nonlocal blobs
        lines.append(f"{kind} {name} {len(inputs)} {len(outputs)} {' '.join(inputs + outputs)} "
                     f"{parameters}".rstrip())
        blobs += len(outputs)

    def take(i):
        read[i] += 1
        return f"v{i}" if readers[i] == 1 else f"v{i}_{read[i]}"

    fused = {"none": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0", "sigmoid": " 9=4",
             "hswish": " 9=6 -23310=2,1.66666672e-01,5.0e-01", "hsigmoid": ""}
    for index, op in enumerate(model.ops):
        value, inputs = f"v{index}", [take(i) for i in op.get("inputs", [])]
        if op["kind"] == "input":
            emit("Input", value, [], [value])
        elif op["kind"] == "global_pool":
            emit("Pooling", value, inputs, [value], "0=1 4=1")
        elif op["kind"] == "scale":
            emit("BinaryOp", value, inputs, [value], "0=2")
        else:
            outputs = [value + name for name in
                       (["_conv"] if op["act"] == "hsigmoid" or op.get("residual") else [""])]
            size, c = op["W"].size, op["shape"][2]
            if model.source(op)["shape"][:2] == [1, 1]:
                emit("InnerProduct", value + "_conv", inputs[:1], outputs, f"0={c} 1=1 2={size}" + fused[op["act"]])
            else:
                depthwise = op["kind"] == "depthwise"
                emit("ConvolutionDepthWise" if depthwise else "Convolution", value + "_conv", inputs[:1],
                     outputs, f"0={c} 1={op['kernel']} 3={op['stride']} 4={op['kernel'] // 2} 5=1 6={size}"
                     + (f" 7={c}" if depthwise else "") + fused[op["act"]])
            weights += [np.zeros(1, np.int32).tobytes(), op["W"].tobytes(), op["b"].tobytes()]
            if op["act"] == "hsigmoid":
                target = value + "_act" if op.get("residual") else value
                emit("HardSigmoid", value + "_gate", outputs, [target], "0=1.66666672e-01 1=5.0e-01")
                outputs = [target]
            if op.get("residual"):
                emit("BinaryOp", value + "_add", outputs + inputs[1:], [value], "0=0")
        if readers.get(index, 0) > 1:
            emit("Split", value + "_split", [value],
                 [f"{value}_{i + 1}" for i in range(readers[index])])
    base.with_suffix(".param").write_text(
        f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n")
    base.with_suffix(".bin").write_bytes(b"".join(weights))


def torch_module(model):
    import torch
    from torch import nn
    from torch.nn import functional as F
    acts = {"none": lambda x: x, "relu": F.relu, "relu6": F.relu6, "hswish": F.hardswish,
            "sigmoid": torch.sigmoid, "hsigmoid": F.hardsigmoid}

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict()
            for index, op in enumerate(model.ops):
                if "W" not in op:
                    continue
                W = torch.from_numpy(op["W"].copy())
                if model.is_linear(index):
                    layer, W = nn.Linear(W.shape[1], W.shape[0]), W[:, :, 0, 0]
                else:
                    groups = W.shape[0] if op["kind"] == "depthwise" else 1
                    layer = nn.Conv2d(W.shape[1] * groups, W.shape[0], op["kernel"], op["stride"],
                                      op["kernel"] // 2, groups=groups)
                layer.weight.data, layer.bias.data = W, torch.from_numpy(op["b"].copy())
                self.layers[str(index)] = layer

        def forward(self, image):
            values = [image]
            for index, op in enumerate(model.ops[1:], 1):
                x = values[op["inputs"][0]]
                if op["kind"] == "global_pool":
                    values.append(F.adaptive_avg_pool2d(x, 1))
                elif op["kind"] == "scale":
                    values.append(x * values[op["inputs"][1]])
                else:
                    if model.is_linear(index):
                        x = x.flatten(1)
                    x = acts[op["act"]](self.layers[str(index)](x))
                    values.append(x + values[op["inputs"][1]] if op.get("residual") else x)
            return values[-1]

    return Module().eval().requires_grad_(False)
