#!/usr/bin/env python3
"""Runs an ONNX model in ONNX Runtime and compares its output with an expected one.

    check_onnx.py MODEL.onnx INPUT.bin EXPECTED.bin TOLERANCE

INPUT.bin is the model's one input as raw little-endian float32 in the model's own order (NCHW for
images), EXPECTED.bin its one output likewise. Passes when
max |output - expected| / max(1, max |expected|) <= TOLERANCE.

Exit codes: 0 equal, 1 different or not loadable, 2 wrong usage or file sizes, 77 cannot run here
(numpy or onnxruntime is missing).
"""
import sys


def main() -> int:
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 77
    model, input_path, expected_path = sys.argv[1:4]
    tolerance = float(sys.argv[4])

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception types are not public
        print(f"{model}: ONNX Runtime refuses it: {error}", file=sys.stderr)
        return 1
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    image = np.fromfile(input_path, dtype="<f4")
    if image.size != np.prod(source.shape):
        print(f"{input_path}: {image.size} values; the model reads {source.shape}", file=sys.stderr)
        return 2
    expected = np.fromfile(expected_path, dtype="<f4")

    (output,) = session.run(None, {source.name: image.reshape(source.shape)})
    if output.shape != tuple(result.shape) or output.size != expected.size:
        print(f"{expected_path}: {expected.size} values; the model gives {output.shape}",
              file=sys.stderr)
        return 2
    difference = np.abs(output.astype(np.float64).ravel() - expected).max()
    error = difference / max(1.0, np.abs(expected.astype(np.float64)).max())
    print(f"{model}: relative error {error:.3g}, tolerance {tolerance:g}")
    return 0 if error <= tolerance else 1  # a NaN compares false and fails


if __name__ == "__main__":
    sys.exit(main())
