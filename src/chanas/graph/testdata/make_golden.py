#!/usr/bin/env python3
"""Writes golden.safetensors: small graphs, their parameters and inputs, and the outputs that ONNX
Runtime gives. Judges the interpreter, the JSON reader and the safetensors reader.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install numpy onnx onnxruntime safetensors
    /tmp/golden/bin/python make_golden.py

A case "x" is the graph metadata["x"] (the JSON of graph_from_json) with the tensors
"x/<parameter>", "x/in0", "x/in1", ... [h, w, c] and "x/out" [h, w, c]. The graphs reach ONNX
Runtime through the official onnx.helper, not through the writer in onnx.cpp. Running it again gives
equal tensors; the order of the metadata in the file is the safetensors package's own.
"""
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

ACTIVATIONS = {
    "relu": ("Relu", {}),
    "relu6": ("Clip", {}),
    "hswish": ("HardSwish", {}),
    "sigmoid": ("Sigmoid", {}),
    "hsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}


def op(kind, name, shape, inputs=(), **fields):
    return {"kind": kind, "name": name, "shape": list(shape), "inputs": list(inputs), **fields}


def conv(name, shape, inputs, kernel=1, stride=1, kind="conv2d", **fields):
    return op(kind, name, shape, inputs, kernel=kernel, stride=stride, **fields)


def cases():
    image = op("input", "input", (5, 6, 3))
    for kernel, stride in ((1, 1), (3, 1), (3, 2), (5, 3), (7, 2)):
        h, w = -(-5 // stride), -(-6 // stride)
        yield f"conv_k{kernel}_s{stride}", [
            image, conv("c", (h, w, 4), [0], kernel, stride, bias=kernel == 3)]
        yield f"depthwise_k{kernel}_s{stride}", [
            image, conv("d", (h, w, 3), [0], kernel, stride, "depthwise", bias=kernel == 5)]
    for name in ACTIVATIONS:
        yield name, [op("input", "input", (4, 4, 5)),
                     op("activation", "a", (4, 4, 5), [0], act=name)]
    yield "batch_norm", [image, op("batch_norm", "bn", (5, 6, 3), [0], epsilon=1e-3)]
    yield "pool", [image, op("global_pool", "p", (1, 1, 3), [0])]
    yield "scale", [image, op("input", "gate", (1, 1, 3)), op("scale", "s", (5, 6, 3), [0, 1])]
    yield "add", [image, op("input", "other", (5, 6, 3)), op("add", "a", (5, 6, 3), [0, 1])]
    yield "fused_residual", [
        image, op("input", "skip", (5, 6, 4)),
        conv("c", (5, 6, 4), [0, 1], 3, 1, bias=True, act="hswish", residual=True)]
    big, one, squeezed = (5, 5, 12), (1, 1, 12), (1, 1, 8)
    yield "unit_se", [  # a whole MBConv unit as it is lowered, k5, SE, residual
        op("input", "input", (5, 5, 4)),
        conv("expand", big, [0]), op("batch_norm", "expand.bn", big, [1]),
        op("activation", "expand.act", big, [2], act="hswish"),
        conv("depthwise", big, [3], 5, 1, "depthwise"), op("batch_norm", "depthwise.bn", big, [4]),
        op("activation", "depthwise.act", big, [5], act="hswish"),
        op("global_pool", "pool", one, [6]),
        conv("reduce", squeezed, [7], bias=True),
        op("activation", "r.act", squeezed, [8], act="relu"),
        conv("gate", one, [9], bias=True), op("activation", "g.act", one, [10], act="hsigmoid"),
        op("scale", "scale", big, [6, 11]),
        conv("project", (5, 5, 4), [12]), op("batch_norm", "project.bn", (5, 5, 4), [13]),
        op("add", "add", (5, 5, 4), [14, 0])]


def parameters(ops, rng):
    result = {}
    for o in ops:
        c = o["shape"][2]
        if o["kind"] in ("conv2d", "depthwise"):
            depth = ops[o["inputs"][0]]["shape"][2] if o["kind"] == "conv2d" else 1
            k = o["kernel"]
            weight = rng.normal(size=(c, depth, k, k)) / np.sqrt(depth * k * k)
            result[o["name"] + ".weight"] = weight
            if o.get("bias"):
                result[o["name"] + ".bias"] = rng.normal(size=c)
        elif o["kind"] == "batch_norm":
            for part in ("weight", "bias", "running_mean"):
                result[f"{o['name']}.{part}"] = rng.normal(size=c)
            result[o["name"] + ".running_var"] = rng.uniform(0.2, 3, size=c)
    return {name: value.astype(np.float32) for name, value in result.items()}


def run(ops, weights, inputs):
    """The last op's value; all arrays [h, w, c]."""
    nodes, values, sources = [], [], []
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    if any(o.get("act") == "relu6" for o in ops):
        initializers += [numpy_helper.from_array(np.float32(v), f"clip{v}") for v in (0, 6)]

    def node(kind, args, **attributes):
        nodes.append(helper.make_node(kind, args, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    for o in ops:
        x = [values[i] for i in o["inputs"]]
        name = o["name"]
        if o["kind"] == "input":
            h, w, c = o["shape"]
            sources.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, h, w]))
            value = name
        elif o["kind"] in ("conv2d", "depthwise"):
            k, s = o["kernel"], o["stride"]
            value = node("Conv", [x[0], name + ".weight"] + [name + ".bias"] * o.get("bias", False),
                         kernel_shape=[k, k], strides=[s, s], pads=[k // 2] * 4,
                         group=o["shape"][2] if o["kind"] == "depthwise" else 1)
        elif o["kind"] == "batch_norm":
            value = node("BatchNormalization",
                         [x[0]] + [f"{name}.{p}" for p in ("weight", "bias", "running_mean",
                                                           "running_var")],
                         epsilon=o.get("epsilon", 1e-5))
        elif o["kind"] == "activation":
            value = x[0]
        else:
            kinds = {"add": "Add", "scale": "Mul", "global_pool": "GlobalAveragePool"}
            value = node(kinds[o["kind"]], x)
        if "act" in o:
            kind, attributes = ACTIVATIONS[o["act"]]
            value = node(kind, [value] + ["clip0", "clip6"] * (kind == "Clip"), **attributes)
        if o.get("residual"):
            value = node("Add", [value, x[1]])
        values.append(value)
    h, w, c = ops[-1]["shape"]
    result = helper.make_tensor_value_info(values[-1], TensorProto.FLOAT, [1, c, h, w])
    model = helper.make_model(helper.make_graph(nodes, "case", sources, [result], initializers),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {s.name: x.transpose(2, 0, 1)[None] for s, x in zip(sources, inputs)}
    return session.run(None, feeds)[0][0].transpose(1, 2, 0)


def main():
    rng = np.random.default_rng(20240607)
    tensors, metadata = {}, {}
    for name, ops in cases():
        weights = parameters(ops, rng)
        # Wide enough to reach every branch of every activation.
        inputs = [rng.normal(scale=3, size=o["shape"]).astype(np.float32)
                  for o in ops if o["kind"] == "input"]
        metadata[name] = json.dumps({"ops": ops})
        for key, value in weights.items():
            tensors[f"{name}/{key}"] = value
        for i, value in enumerate(inputs):
            tensors[f"{name}/in{i}"] = value
        tensors[f"{name}/out"] = np.ascontiguousarray(run(ops, weights, inputs))
    save_file(tensors, pathlib.Path(__file__).with_name("golden.safetensors"), metadata)
    print(f"{len(metadata)} cases")


if __name__ == "__main__":
    main()
