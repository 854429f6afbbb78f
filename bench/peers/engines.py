"""One engine in a process of its own: engines.py ENGINE THREADS CORE,CORE,...

Reads a line, answers a line of JSON:
    load FOLDER       {"version": ...} after two runs of the model in FOLDER on its input.npy
    output FILE       {} after writing the last output
    run WARM_UP RUNS  nanoseconds of each run; nothing but the run is inside the time
An engine that cannot do it answers {"error": ...}.
"""
import ctypes
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import convert

THREADS = 1  # set by main


def aligned(shape):
    """Zeros on a 64-byte boundary, which every engine may profit from."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start:start + size].reshape(shape)


def chanas(folder, image):
    library = ctypes.CDLL(str(folder / "chanas" / "libmodel.so"))
    library.model_info.restype = ctypes.c_char_p
    h, w, c = image.shape[2], image.shape[3], image.shape[1]
    source, result = aligned((h, w, c)), aligned(convert.Model(folder).ops[-1]["shape"])
    source[:] = image[0].transpose(1, 2, 0)
    net = ctypes.c_void_p()
    if library.model_create(ctypes.byref(net), THREADS) != 0:
        raise RuntimeError("model_create failed")
    call, arguments = library.model_run, (net, ctypes.c_void_p(source.ctypes.data),
                                          ctypes.c_void_p(result.ctypes.data))

    def run():
        if call(*arguments) != 0:
            raise RuntimeError("model_run failed")

    run.keep = source  # the library holds its address alone
    return run, lambda: result.transpose(2, 0, 1), json.loads(library.model_info())["chanas"]


def onnxruntime(folder, image):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(folder / "model.onnx"), options,
                                   providers=["CPUExecutionProvider"])
    result = session.get_outputs()[0]
    value = ort.OrtValue.ortvalue_from_shape_and_type(result.shape, np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", ort.OrtValue.ortvalue_from_numpy(image))
    binding.bind_ortvalue_output(result.name, value)
    return lambda: session.run_with_iobinding(binding), value.numpy, ort.__version__


def openvino(folder, image):
    import openvino as ov
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(folder / "model.onnx")), "CPU", {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1})
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(image))
    return request.infer, lambda: request.get_output_tensor(0).data.copy(), ov.__version__


def ncnn(folder, image):
    import ncnn as engine
    net = engine.Net()
    options = net.opt
    options.num_threads = THREADS
    for name in ("use_vulkan_compute", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                 "use_bf16_storage", "use_bf16_packed"):
        if hasattr(options, name):
            setattr(options, name, False)
    if net.load_param(str(folder / "model.param")) or net.load_model(str(folder / "model.bin")):
        raise RuntimeError("the model was refused")
    source, last = engine.Mat(image[0]).clone(), f"v{len(convert.Model(folder).ops) - 1}"
    kept = {}

    def run():
        extractor = net.create_extractor()
        extractor.input("v0", source)
        kept["result"] = extractor.extract(last)[1]

    return run, lambda: np.array(kept["result"]), engine.__version__


def mnn(folder, image):
    import MNN as engine
    net = engine.Interpreter(str(folder / "model.mnn"))
    session = net.createSession({"backend": "CPU", "numThread": THREADS, "precision": "high"})
    source, result = net.getSessionInput(session), net.getSessionOutput(session)

    def tensor(values):
        return engine.Tensor(values.shape, engine.Halide_Type_Float, values,
                             engine.Tensor_DimensionType_Caffe)

    host = tensor(image)

    def run():
        # The session reuses the memory of its input, so the copy belongs to every run.
        source.copyFrom(host)
        net.runSession(session)

    def output():
        values = tensor(np.zeros(result.getShape(), np.float32))
        result.copyToHostTensor(values)
        return np.array(values.getNumpyData())

    run.keep = image
    return run, output, engine.version()


def litert(folder, image):
    import importlib.metadata
    from ai_edge_litert.interpreter import Interpreter
    net = Interpreter(str(folder / "model.tflite"), num_threads=THREADS)
    net.allocate_tensors()
    net.set_tensor(net.get_input_details()[0]["index"],
                   np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
    result = net.get_output_details()[0]["index"]

    def output():
        values = net.get_tensor(result)
        return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values

    return net.invoke, output, importlib.metadata.version("ai-edge-litert")


def torch(folder, image):
    import torch as engine
    engine.set_num_threads(THREADS)
    engine.inference_mode().__enter__()
    source = engine.from_numpy(image).to(memory_format=engine.channels_last)
    module = convert.torch_module(convert.Model(folder)).to(memory_format=engine.channels_last)
    with engine.no_grad():
        module = engine.jit.optimize_for_inference(engine.jit.freeze(engine.jit.trace(module, source)))
    kept = {}

    def run():
        kept["result"] = module(source)

    return run, lambda: kept["result"].contiguous().numpy(), engine.__version__


# The first one's outputs judge the others'.
ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn, "mnn": mnn,
           "litert": litert, "torch": torch, "chanas": chanas}


def answer(line, state):
    command, *arguments = line.strip().split(maxsplit=1)
    if command == "load":
        state.clear()
        folder = Path(arguments[0])
        source = np.load(folder / "input.npy")
        image = aligned(source.shape)
        image[:] = source
        run, output, version = ENGINES[sys.argv[1]](folder, image)
        run()
        run()
        state.update(run=run, output=output)
        return {"version": version}
    if command == "output":
        np.save(arguments[0], np.asarray(state["output"](), np.float32))
        return {}
    warm_up, runs = map(int, arguments[0].split())
    run, clock, times = state["run"], time.perf_counter_ns, []
    for _ in range(warm_up):
        run()
    for _ in range(runs):
        start = clock()
        run()
        times.append(clock() - start)
    return times


def main():
    global THREADS
    THREADS = int(sys.argv[2])
    os.sched_setaffinity(0, {int(core) for core in sys.argv[3].split(",")})
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    protocol = os.fdopen(os.dup(1), "w")  # engines print to standard output
    os.dup2(2, 1)
    state = {}
    for line in sys.stdin:
        try:
            reply = answer(line, state)
        except Exception as error:  # whatever an engine throws is its result
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(reply), file=protocol, flush=True)


if __name__ == "__main__":
    main()
