#!/usr/bin/env python3
"""Tests of scripts/bootstrap: no network, no root, nothing outside a temporary folder.

Each test runs a copy of the script beside small made-up wheels, which pip takes from a local
folder, and beside stand-ins for dpkg-query and apt-get that are found through PATH.
"""

import contextlib
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import zipfile
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).resolve().parent.parent
TAG = "cp311-cp311-manylinux_2_28_x86_64"
sys.dont_write_bytecode = True


def load_bootstrap(root):
    loader = importlib.machinery.SourceFileLoader("bootstrap", str(root / "scripts/bootstrap"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bootstrap", loader))
    loader.exec_module(module)
    return module


def make_wheel(folder, name, version, files):
    path = folder / f"{name}-{version}-{TAG}.whl"
    info = f"{name}-{version}.dist-info"
    files = dict(files, **{
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {TAG}\n",
        f"{info}/RECORD": "",
        f"{info}/licenses/LICENSE": "a licence\n"})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


def shared_library(folder, name, source, *options):
    (folder / "source.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(folder / "source.c"),
                    *options], check=True)
    return (folder / name).read_bytes()


class BootstrapTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="chanas-bootstrap-"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.root = self.folder / "clone"
        self.cache = self.folder / "cache"
        self.links = self.folder / "links"
        self.bin = self.folder / "bin"
        for folder in (self.root / "scripts", self.root / "deps", self.links, self.bin):
            folder.mkdir(parents=True)
        shutil.copy(REPOSITORY / "scripts/bootstrap", self.root / "scripts/bootstrap")
        (self.root / "deps/debian.txt").write_text("# a comment\ng++\ncmake\nlibabsl-dev\n")
        library = shared_library(self.folder, "libHalide.so", "int halide(void) { return 21; }")
        self.halide_wheel = make_wheel(self.links, "halide", "21.0.0", {
            "halide/include/Halide.h": "// Halide\n", "halide/lib64/libHalide.so": library,
            "halide/bin/gengen": "not needed"})
        self.pin(self.halide_wheel)
        self.stand_in("dpkg-query", self.installed("g++", "cmake", "libabsl-dev"))
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "CHANAS_DEPS": str(self.cache),
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.links), "CHANAS_RETRY_SECONDS": "0"}

    def pin(self, *wheels):
        text = "# section: build\n"
        for wheel in wheels:
            name, version = wheel.name.split("-")[:2]
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            text += f"# {wheel.stat().st_size} bytes, {TAG}\n"
            text += f"{name}=={version} \\\n    --hash=sha256:{digest}\n"
        (self.root / "deps/wheels.txt").write_text(text)

    def stand_in(self, name, script):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @staticmethod
    def installed(*packages):
        return "\n".join(f"printf '{package}\\tii \\n'" for package in packages)

    def run_bootstrap(self, *arguments, root=True, **variables):
        """Returns the exit code and what was printed."""
        output = open(self.folder / "stderr", "w+")  # a real file: children write to it too
        self.addCleanup(output.close)
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith("CHANAS_")}
        environment.update(self.environment, **variables)
        with mock.patch.dict(os.environ, environment, clear=True), \
                mock.patch("os.geteuid", return_value=0 if root else 1000), \
                contextlib.redirect_stderr(output):
            code = load_bootstrap(self.root).main(list(arguments))
        output.seek(0)
        return code, output.read()

    # --- packages

    def test_missing_packages_without_root_are_listed_with_the_one_command(self):
        self.stand_in("dpkg-query", self.installed("cmake"))
        code, text = self.run_bootstrap(root=False)
        self.assertEqual(code, 1)
        self.assertIn("2 Debian packages are missing: g++ libabsl-dev\n", text)
        self.assertIn("\n  sudo apt-get install -y --no-install-recommends g++ libabsl-dev\n", text)
        self.assertFalse(self.cache.exists())

    def test_removed_package_with_configuration_left_is_missing(self):
        self.stand_in("dpkg-query",
                      self.installed("g++", "cmake") + "\nprintf 'libabsl-dev\\trc \\n'")
        code, text = self.run_bootstrap(root=False)
        self.assertEqual(code, 1)
        self.assertIn("1 Debian package is missing: libabsl-dev\n", text)

    def test_root_installs_what_is_missing_and_nothing_else(self):
        done, calls = self.folder / "done", self.folder / "calls"
        self.stand_in("dpkg-query", self.installed("g++", "cmake")
                      + f"\n[ -e {done} ] && {self.installed('libabsl-dev')}")
        self.stand_in("apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {calls}\n'
                                 f'case "$*" in *install*) touch {done};; esac')
        code, text = self.run_bootstrap("--only", "core")
        self.assertEqual(code, 0, text)
        update, install = calls.read_text().splitlines()
        self.assertRegex(update, "^noninteractive .* update")
        self.assertRegex(install, "^noninteractive .*--no-install-recommends libabsl-dev$")

    def test_failed_installation_names_what_is_still_missing(self):
        self.stand_in("dpkg-query", self.installed("g++", "cmake"))
        self.stand_in("apt-get", "exit 100")
        code, text = self.run_bootstrap("--only", "core")
        self.assertEqual(code, 1)
        self.assertIn("still missing: libabsl-dev", text)

    def test_unprivileged_user_with_all_packages_goes_on(self):
        code, text = self.run_bootstrap("--only", "core", root=False)
        self.assertEqual((code, text), (0, "bootstrap: ready: packages\n"))

    def test_wrong_arguments_and_pins_are_named(self):
        with self.assertRaises(SystemExit) as stop:
            self.run_bootstrap("--only", "tensorflow")
        self.assertEqual(stop.exception.code, 2)
        (self.root / "deps/wheels.txt").write_text("halide>=21\n")
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 1)
        self.assertIn("got 'halide>=21'", text)

    # --- cache

    def prefix(self):
        return self.cache / "halide-21.0.0"

    def cached_wheel(self):
        return self.cache / "wheels" / self.halide_wheel.name

    def test_unpacks_the_needed_files_and_then_does_nothing(self):
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 0, text)
        self.assertIn("downloading halide 21.0.0", text)
        files = {str(path.relative_to(self.prefix()))
                 for path in self.prefix().rglob("*") if path.is_file()}
        self.assertEqual(files, {"include/Halide.h", "lib/libHalide.so", "licenses/LICENSE",
                                 ".chanas-complete"})
        # Neither a package index nor the cached wheel is needed any more.
        shutil.rmtree(self.links)
        shutil.rmtree(self.cache / "wheels")
        started = time.monotonic()
        code, text = self.run_bootstrap("--only", "halide")
        self.assertLess(time.monotonic() - started, 1)
        self.assertEqual((code, text), (0, f"bootstrap: ready: halide in {self.prefix()}\n"))

    def test_damaged_wheel_is_fetched_again(self):
        for damage in (lambda data: data[:-100], lambda data: b"", lambda data: b"X" + data[1:]):
            shutil.rmtree(self.cache, ignore_errors=True)
            self.cached_wheel().parent.mkdir(parents=True)
            self.cached_wheel().write_bytes(damage(self.halide_wheel.read_bytes()))
            code, text = self.run_bootstrap("--only", "halide")
            self.assertEqual(code, 0, text)
            self.assertIn("is damaged or partial", text)
            self.assertEqual(self.cached_wheel().read_bytes(), self.halide_wheel.read_bytes())
            self.assertTrue((self.prefix() / "lib/libHalide.so").exists())

    def test_whole_cached_wheel_is_not_fetched(self):
        self.cached_wheel().parent.mkdir(parents=True)
        shutil.move(self.halide_wheel, self.cached_wheel())
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 0, text)
        self.assertNotIn("downloading", text)

    def test_download_with_another_content_is_refused(self):
        with zipfile.ZipFile(self.halide_wheel, "a") as archive:
            archive.writestr("halide/extra", "not what was pinned")
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 1)
        self.assertIn("halide 21.0.0 could not be downloaded", text)
        self.assertFalse(self.prefix().exists())
        self.assertFalse(self.cached_wheel().exists())

    def test_damaged_folder_is_made_again(self):
        self.run_bootstrap("--only", "halide")
        for damage in (lambda path: path.write_text("short"), lambda path: path.unlink()):
            damage(self.prefix() / "include/Halide.h")
            code, text = self.run_bootstrap("--only", "halide")
            self.assertEqual(code, 0, text)
            self.assertIn("is damaged", text)
            self.assertEqual((self.prefix() / "include/Halide.h").read_text(), "// Halide\n")

    def test_remains_of_a_killed_run_are_cleared(self):
        (self.cache / ".tmp-halide-1/include").mkdir(parents=True)
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 0, text)
        self.assertEqual(list(self.cache.glob(".tmp-*")), [])

    def test_two_at_once_download_once(self):
        environment = dict(os.environ, **self.environment)
        runs = [subprocess.Popen([sys.executable, str(self.root / "scripts/bootstrap"),
                                  "--only", "halide"], env=environment, text=True,
                                 stderr=subprocess.PIPE) for _ in range(3)]
        texts = [run.communicate()[1] for run in runs]
        self.assertEqual([run.returncode for run in runs], [0, 0, 0], texts)
        self.assertEqual("".join(texts).count("downloading"), 1, texts)

    def test_library_that_does_not_load_is_reported(self):
        wheel = make_wheel(self.links, "halide", "21.0.0", {
            "halide/include/Halide.h": "", "halide/lib64/libHalide.so": "no library"})
        self.pin(wheel)
        code, text = self.run_bootstrap("--only", "halide")
        self.assertEqual(code, 1)
        self.assertIn("libHalide.so was unpacked but cannot be loaded", text)
        self.assertFalse(self.prefix().exists())

    # --- LibTorch

    def test_torch_gets_stubs_that_report_no_device(self):
        shared_library(
            self.folder, "libcudart.so.13",
            "int cudaGetDeviceCount(int* n) { return *n = 0; } "
            "const char* cudaGetErrorString(int e) { return 0; }",
            "-Wl,-soname,libcudart.so.13", f"-Wl,--version-script={self.version_map()}")
        library = shared_library(
            self.folder, "libtorch_cpu.so",
            "int cudaGetDeviceCount(int*); const char* cudaGetErrorString(int);"
            "int devices(void) { int n; return cudaGetDeviceCount(&n); }"
            "const char* text(void) { return cudaGetErrorString(100); }",
            str(self.folder / "libcudart.so.13"), "-Wl,--disable-new-dtags",
            "-Wl,-rpath,$ORIGIN/../../nvidia/cu13/lib")
        self.pin(make_wheel(self.links, "torch", "2.11.0", {
            "torch/lib/libtorch_cpu.so": library, "torch/lib/libtorch_cuda.so": "not needed",
            "torch/include/ATen/ATen.h": "", "torch/include/fmt/core.h": "",
            "torch/__init__.py": ""}))
        code, text = self.run_bootstrap("--only", "torch")
        self.assertEqual(code, 0, text)
        prefix = self.cache / "torch-2.11.0"
        self.assertFalse((prefix / "torch/lib/libtorch_cuda.so").exists())
        self.assertFalse((prefix / "torch/include/fmt").exists())
        self.assertTrue((prefix / "torch/include/ATen/ATen.h").exists())
        self.assertEqual([path.name for path in (prefix / "nvidia/cu13/lib").iterdir()],
                         ["libcudart.so.13"])
        loaded = ctypes.CDLL(str(prefix / "torch/lib/libtorch_cpu.so"))
        loaded.text.restype = ctypes.c_char_p
        self.assertEqual((loaded.devices(), loaded.text()), (100, b"no CUDA"))

    def version_map(self):
        path = self.folder / "versions.map"
        path.write_text("libcudart.so.13 { global: *; };\n")
        return path

    # --- existing installations

    def test_prefix_with_a_missing_file_is_named(self):
        own = self.folder / "own"
        (own / "include").mkdir(parents=True)
        (own / "include/Halide.h").touch()
        code, text = self.run_bootstrap("--only", "halide", CHANAS_HALIDE_PREFIX=str(own))
        self.assertEqual(code, 1)
        self.assertIn(f"CHANAS_HALIDE_PREFIX is {own}, which lacks: lib/libHalide.so or "
                      "lib64/libHalide.so.", text)
        self.assertFalse(self.cache.exists())

    def test_complete_prefix_is_used_and_nothing_fetched(self):
        own = self.folder / "own"
        for name in ("include/Halide.h", "lib64/libHalide.so"):
            (own / name).parent.mkdir(parents=True)
            (own / name).touch()
        code, text = self.run_bootstrap("--only", "halide", CHANAS_HALIDE_PREFIX=str(own))
        self.assertEqual((code, text), (0, f"bootstrap: ready: halide in {own}\n"))
        self.assertFalse(self.cache.exists())

    def test_torch_prefix_one_level_too_deep_gets_a_hint(self):
        own = self.folder / "site/torch"
        (own / "lib").mkdir(parents=True)
        (own / "lib/libtorch_cpu.so").touch()
        code, text = self.run_bootstrap("--only", "torch", CHANAS_TORCH_PREFIX=str(own))
        self.assertEqual(code, 1)
        self.assertIn(f"try {own.parent}.", text)

    # --- the real pins

    def test_shipped_lists_are_well_formed(self):
        module = load_bootstrap(REPOSITORY)
        wheels = module.read_wheels(REPOSITORY / "deps/wheels.txt")
        self.assertLessEqual({"pip", "torch", "halide", "onnxruntime", "numpy"}, set(wheels))
        self.assertEqual({wheel.section for wheel in wheels.values()}, {"tool", "build", "test", "peers"})
        self.assertTrue(all(wheel.size > 0 for wheel in wheels.values()))
        packages = module.debian_packages()
        self.assertEqual(len(packages), len(set(packages)))
        self.assertTrue(all(" " not in package for package in packages))


if __name__ == "__main__":
    unittest.main()
