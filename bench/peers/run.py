#!/usr/bin/env python3
"""Exported CHaNAS libraries against other inference engines, interleaved in one run.

    make bench-peers NETWORKS="mobilenet_v3_large my.toml table3" THREADS="1 2" ROUNDS=12 TUNE_BUDGET=240

NETWORKS: names of the zoo, network or graph files, and `zoo`, `dense`, `separable`, `table3` (both
readings of the paper's Table 3), or single layers of it: L5 (dense), S5 (separable). What the store
(bench/out/peers.db) has not seen tuned for TUNE_BUDGET seconds is tuned first, per network and
thread count (a layer: a sixth of it). Results: a table, and bench/out/peers.json.
"""
import argparse
import csv
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import convert
from engines import ENGINES
from results import TOLERANCE, cell, print_table

HERE = Path(__file__).resolve().parent
# The same for every engine: transparent huge pages behind malloc.
ENVIRONMENT = dict(os.environ, GLIBC_TUNABLES="glibc.malloc.hugetlb=1")


def say(text):
    print(f"bench-peers: {text}", file=sys.stderr, flush=True)


# --- Networks ------------------------------------------------------------------------------------

def layers():
    with open(HERE / "table3.csv", newline="") as file:
        return {row.pop("layer"): {key: int(value) for key, value in row.items()}
                for row in csv.DictReader(file)}


def layer_graph(row, separable):
    source = [row["h"], row["w"], row["c_in"]]
    result = [row["h_out"], row["w_out"], row["c_out"]]
    window = {"kernel": row["kernel"], "stride": row["stride"], "bias": True}
    ops = [{"kind": "input", "name": "input", "shape": source}]
    if separable:
        ops += [{"kind": "depthwise", "name": "depthwise", "inputs": [0],
                 "shape": result[:2] + [row["c_in"]], **window},
                {"kind": "conv2d", "name": "project", "inputs": [1], "shape": result, "bias": True}]
    else:
        ops.append({"kind": "conv2d", "name": "conv", "inputs": [0], "shape": result, **window})
    return {"ops": ops}


class Subject:
    """A network or layer: what `chanas` is told, and the name that results carry."""

    def __init__(self, name, argument, budget, out):
        self.name, self.argument, self.budget = name, str(argument), budget
        self.out = out / "models" / name
        self.out.mkdir(parents=True, exist_ok=True)
        text = Path(argument).read_bytes() if Path(argument).is_file() else name.encode()
        self.id = f"{name} {hashlib.sha256(text).hexdigest()[:12]}"


def subjects(names, options):
    rows, result = layers(), {}

    def add(name, argument, budget):
        result.setdefault(name, Subject(name, argument, budget, options.out))

    for name in names:
        reading = {"dense": "L", "separable": "S", "table3": "LS"}.get(name)
        if name == "zoo":
            for file in sorted((HERE.parent.parent / "zoo").glob("*.toml")):
                add(file.stem, file.stem, options.tune_budget)
        elif reading or (name[:1] in "LS" and "L" + name[1:] in rows):
            picked = [letter + row[1:] for letter in reading for row in rows] if reading else [name]
            for layer in picked:
                path = options.out / "layers" / f"{layer}.json"
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(layer_graph(rows["L" + layer[1:]], layer[0] == "S")))
                add(layer, path, options.tune_budget / 6)
        else:
            add(Path(name).stem if Path(name).is_file() else name, name, options.tune_budget)
    return list(result.values())


# --- Ours: tuned and exported --------------------------------------------------------------------

class Ours:
    def __init__(self, options):
        self.options = options
        self.store = options.out / "peers.db"
        self.journal = options.out / "tuned.json"  # seconds that each subject was tuned for
        self.tuned = json.loads(self.journal.read_text()) if self.journal.exists() else {}
        # What was tuned for other schedules, or measured otherwise, does not count.
        self.version = subprocess.run([str(options.bin / "chanas"), "--version"], check=True,
                                      stdout=subprocess.PIPE, text=True).stdout.strip()

    def chanas(self, *arguments):
        return subprocess.run([str(self.options.bin / "chanas"), *map(str, arguments)],
                              stdout=subprocess.DEVNULL).returncode

    def key(self, subject, threads):
        return f"{subject.id} {threads} {self.version}"

    def tune(self, subject, threads):
        key = self.key(subject, threads)
        missing = subject.budget - self.tuned.get(key, 0)
        if missing < 1:
            return False
        say(f"tuning {subject.name} for {threads} thread(s), at most {missing:.0f} s")
        code = self.chanas("tune", subject.argument, "--store", self.store, "--threads", threads,
                           "--trials", self.options.trials, "--budget", f"{missing:.0f} s")
        if code != 0:
            raise SystemExit(code)
        self.tuned[key] = subject.budget
        temporary = self.journal.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.tuned, indent=1))
        temporary.replace(self.journal)
        return True

    def export(self, subject, threads, tuned):
        """The folder of the library; made again after tuning or when the compiler has changed."""
        folder = subject.out / f"chanas-{threads}"
        manifest = folder / "manifest.json"
        built = max((self.options.bin / name).stat().st_mtime for name in ("chanas", "chanas-kernel"))
        if tuned or not manifest.exists() or manifest.stat().st_mtime < built:
            say(f"exporting {subject.name} for {threads} thread(s)")
            code = self.chanas("bench", subject.argument, "--store", self.store, "--threads", threads,
                               "--repeats", 0, "--export", folder)
            if code != 0:
                return None
        return folder

    def prepare(self, subject, threads):
        tuned = self.tune(subject, threads)
        folder = self.export(subject, threads, tuned)
        if not folder:  # the store is not the one that was tuned
            self.tuned.pop(self.key(subject, threads), None)
            self.tune(subject, threads)
            folder = self.export(subject, threads, True)
        if not folder:
            raise SystemExit(f"bench-peers: {subject.name} could not be exported")
        return folder


def convert_all(exported, folder):
    """Every engine's file, from our own graph and weights. A failure is the engine's."""
    folder.mkdir(exist_ok=True)
    for name, source in (("chanas", exported), ("model.onnx", exported / "model.onnx"),
                         ("graph.json", exported / "graph.json"),
                         ("weights.safetensors", exported / "weights.safetensors")):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())
    if (folder / "input.npy").exists() and \
            (folder / "input.npy").stat().st_mtime > (exported / "manifest.json").stat().st_mtime:
        return
    model = convert.Model(folder)
    for name, write in (("model.tflite", convert.write_tflite), ("model", convert.write_ncnn),
                        ("model.mnn", write_mnn)):
        try:
            write(model, folder / name)
        except Exception as error:
            say(f"{name} of {folder.parent.name}: {type(error).__name__}: {error}")
    np.save(folder / "input.npy",
            np.random.default_rng(7).normal(0, 1, model.input_shape()).astype(np.float32))


def write_mnn(model, path):
    del model
    path.unlink(missing_ok=True)
    program = "import sys; from MNN.tools import mnnconvert; sys.argv = sys.argv[1:]; mnnconvert.main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "mnnconvert", "-f", "ONNX", "--modelFile",
         str(path.parent / "model.onnx"), "--MNNModel", str(path), "--bizCode", "chanas"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not path.exists():
        raise RuntimeError(result.stdout[-300:])


# --- Engines -------------------------------------------------------------------------------------

class Engine:
    def __init__(self, name, threads, logs):
        cores = sorted(os.sched_getaffinity(0))
        cores = cores[-1:] if threads == 1 else cores[:threads]
        self.name, self.log = name, logs / f"{name}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "engines.py"), name, str(threads), ",".join(map(str, cores))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.log, "w"), text=True,
            env=ENVIRONMENT)

    def ask(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        return json.loads(reply) if reply else {"error": f"its process ended, see {self.log}"}

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


def output_error(output, reference):
    if output.size != reference.size:
        return float("inf")
    error = np.abs(output.astype(np.float64) - reference).max() / np.abs(reference).max()
    return float(error) if np.isfinite(error) else float("inf")


def measure(subject, threads, engines, options):
    """Rows of peers.json for one network and thread count."""
    loaded, outputs = {}, {}
    for engine in engines:
        reply = engine.ask(f"load {subject.out / f'peers-{threads}'}")
        if "error" in reply:
            say(f"{engine.name} is left out of {subject.name}: {reply['error']}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "output.npy"
            engine.ask(f"output {file}")
            outputs[engine.name] = np.load(file).ravel()
        loaded[engine.name] = (engine, reply["version"], [])
    if not loaded:
        return []
    reference = outputs[next(iter(outputs))]
    for turn in range(options.rounds):
        order = list(loaded.values())
        for engine, _, times in order if turn % 2 == 0 else reversed(order):
            time.sleep(0.05)  # threads of the last engine stop spinning
            reply = engine.ask(f"run 3 {options.runs}")
            times.append(reply if isinstance(reply, list) else [])
            if not times[-1]:
                say(f"{engine.name} failed on {subject.name}: {reply['error']}")
    rows = []
    for name, (_, version, times) in loaded.items():
        calls = [time for turn in times for time in turn]
        if not calls:
            continue
        error = output_error(outputs[name], reference)
        if error > TOLERANCE:
            say(f"{name} deviates on {subject.name}: {error:.1e} of the largest output, "
                f"over {TOLERANCE:g}")
        rows.append({"network": subject.name, "threads": threads, "engine": name,
                     "median_us": statistics.median(calls) / 1e3, "min_us": min(calls) / 1e3,
                     "rounds": options.rounds, "version": version, "relative_error": error,
                     "round_medians_us": [statistics.median(turn) / 1e3 if turn else None
                                          for turn in times]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    root = HERE.parent.parent
    parser.add_argument("--networks", nargs="+", default=["zoo", "table3"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=15,
                        help="per round: turns are short, so that all engines see the same seconds")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--tune-budget", type=float, default=240, metavar="SECONDS")
    parser.add_argument("--trials", type=int, default=400, help="schedules per workload, at most")
    parser.add_argument("--out", type=Path, default=root / "bench/out")
    parser.add_argument("--bin", type=Path, default=root / "build/release/bin")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = subjects(options.networks, options)
    cores = len(os.sched_getaffinity(0))
    for threads in [t for t in options.threads if t > cores]:
        say(f"{threads} threads are left out: {cores} core(s) here")
    ours = Ours(options)
    # Everything is tuned before anything is timed: the figures belong to one run.
    counts = [t for t in options.threads if t <= cores]
    for subject in chosen:
        for threads in counts:
            convert_all(ours.prepare(subject, threads), subject.out / f"peers-{threads}")
    results = []
    for threads in counts:
        engines = [Engine(name, threads, options.out)
                   for name in ENGINES if name in options.engines]
        for subject in chosen:
            rows = measure(subject, threads, engines, options)
            results += rows
            say(f"{subject.name}, {threads} thread(s): " +
                ", ".join(f"{row['engine']} {cell(row)}" for row in rows))
        for engine in engines:
            engine.close()
    (options.out / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    print_table(results, list(ENGINES), list(layers()))


if __name__ == "__main__":
    main()
