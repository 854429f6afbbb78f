#!/usr/bin/env python3
"""Checks the module order: a module includes only modules above it in ORDER, and a third-party
library is named only in the modules that own it. Prints each violation; exit code 1 if any."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "src" / "chanas"

# Lowest first.
ORDER = [
    "base", "arch", "graph", "target", "schedule", "runtime", "codegen", "measure", "store", "tune",
    "data", "supernet", "predict", "search", "deploy", "report", "pipeline", "bench", "cli",
]

# Include prefix -> modules that may name it. JSON and formatting belong to base and are everybody's.
OWNERS = {
    "toml++": {"arch", "pipeline"},
    "onnx.pb.h": {"graph"},
    "google/protobuf": {"graph"},
    "sqlite3": {"store"},
    "SQLiteCpp": {"store"},
    "Halide": {"codegen"},
    "torch": {"supernet"},
    "ATen": {"supernet"},
    "c10": {"supernet"},
    "mpi.h": {"supernet"},
    "turbojpeg": {"data"},
    "png.h": {"data"},
    "archive": {"data"},
    "openssl": {"base"},
    "CLI": {"bench", "cli"},
    "Eigen": {"tune"},
    "zlib.h": {"bench"},
}
# Heavy headers appear in no header that another module includes.
HEAVY = ("Halide.h", "torch/", "ATen/", "nlohmann/json.hpp", "toml++/")

INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]')


def main() -> int:
    problems = []
    heavy = {}  # header of ours -> the heavy header in it
    includes = []
    for path in sorted(ROOT.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".c") or "testdata" in path.parts:
            continue
        module = path.relative_to(ROOT).parts[0]
        if module not in ORDER:
            problems.append(f"{path}: folder {module} is not in the module order")
            continue
        is_test = path.stem.endswith("_test") or "testing" in path.stem
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            included = match.group(1)
            where = f"{path.relative_to(ROOT.parent.parent)}:{number}"
            if included.startswith("chanas/"):
                other = included.split("/")[1]
                if other not in ORDER:
                    problems.append(f"{where}: unknown module {other}")
                elif ORDER.index(other) > ORDER.index(module) and not is_test:
                    problems.append(f"{where}: {module} must not include {other}, which is above it")
            for prefix, owners in OWNERS.items():
                if included.startswith(prefix) and module not in owners and not is_test:
                    problems.append(f"{where}: {included} belongs to {', '.join(sorted(owners))}")
            if path.suffix == ".h" and included.startswith(HEAVY):
                heavy[str(path.relative_to(ROOT.parent))] = f"{where}: {included}"
            includes.append((included, module, where))
    for included, module, where in includes:
        if included in heavy and included.split("/")[1] != module:
            problems.append(f"{where}: {included} brings in a heavy header ({heavy[included]})")
    for problem in problems:
        print(problem)
    if not problems:
        print("module order holds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
