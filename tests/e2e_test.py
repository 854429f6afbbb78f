"""The whole road on this machine: generated images to a deployed library, judged by its own selftest,
by ONNX Runtime, and by LibTorch's logits."""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import unittest
import xml.dom.minidom

from chanas_test_case import BIN, ROOT, ChanasTestCase

HAS_KERNEL = (BIN / "chanas-kernel").exists()
HAS_NN = (BIN / "chanas-nn").exists()
ORT_PYTHON = os.environ.get("CHANAS_ORT_PYTHON", "")


def read_safetensors(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    data = raw[8 + size:]
    return {
        name: (entry["shape"], data[entry["data_offsets"][0]:entry["data_offsets"][1]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@unittest.skipUnless(HAS_KERNEL and HAS_NN, "built without Halide or LibTorch")
class EndToEndTest(ChanasTestCase):
    @classmethod
    def setUpClass(cls):
        # One run serves all tests of this class.
        helper = ChanasTestCase()
        helper.setUp()
        cls.helper = helper
        cls.folder_shared = helper.folder
        # Networks of a few microseconds: a limit that noise cannot reach, yet a real one.
        config = helper.config(device="local", limit_ms=0.02)
        cls.done = helper.chanas("run", "--config", config, "--run-dir", "r", timeout=600)
        cls.run_dir = helper.folder / "r"
        cls.result = json.loads((cls.run_dir / "result.json").read_text())

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder_shared, ignore_errors=True)

    def test_result_has_its_stable_keys(self):
        for key in ["arch", "resolution", "macs", "params", "accuracy", "latency_us", "device", "threads",
                    "seconds", "export", "seed", "versions"]:
            self.assertIn(key, self.result)
        self.assertEqual(set(self.result["accuracy"]), {"test", "supernet", "smallest_net", "largest_net"})
        self.assertEqual(
            set(self.result["latency_us"]),
            {"limit", "predicted", "measured", "measured_p10", "measured_p90", "default_schedule"})

    def test_returned_network_is_inside_the_limit(self):
        latency = self.result["latency_us"]
        self.assertLessEqual(latency["measured"], latency["limit"])

    def test_selftest_is_correct(self):
        done = subprocess.run([str(self.run_dir / "export" / "selftest"), "--json"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(json.loads(done.stdout)["correct"])

    def test_library_needs_libc_alone(self):
        needed = subprocess.run(["readelf", "-d", str(self.run_dir / "export" / "libmodel.so")],
                                capture_output=True, text=True, check=True).stdout
        libraries = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
        self.assertLessEqual(libraries, {"libc.so.6", "libm.so.6", "libpthread.so.0"})

    def test_example_compiles_as_documented_and_runs(self):
        folder = self.run_dir / "export"
        subprocess.run(["cc", "example.c", "-I.", "libmodel.a", "-lpthread", "-lm", "-o", str(self.folder / "example")],
                       cwd=folder, check=True)
        size = self.result["resolution"] ** 2 * 3
        done = subprocess.run([str(self.folder / "example")], input=bytes(size), capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"class", done.stdout)

    def test_library_gives_the_supernets_logits(self):
        """LibTorch's logits of the subnet, through the exported library."""
        tensors = read_safetensors(self.run_dir / "subnet" / "reference.safetensors")
        (count, *_), images = tensors["input"]
        _, logits = tensors["logits"]
        program = self.folder / "logits.c"
        program.write_text("""
#include <stdio.h>
#include "model.h"
int main(void) {
  static float image[MODEL_INPUT_FLOATS], logits[MODEL_CLASSES];
  model* net;
  if (model_create(&net, 1)) return 1;
  while (fread(image, sizeof image, 1, stdin) == 1) {
    if (model_run(net, image, logits)) return 1;
    fwrite(logits, sizeof logits, 1, stdout);
  }
  model_destroy(net);
  return 0;
}
""")
        export = self.run_dir / "export"
        subprocess.run(["cc", str(program), f"-I{export}", str(export / "libmodel.a"), "-lpthread", "-lm", "-o",
                        str(self.folder / "logits")], check=True)
        out = subprocess.run([str(self.folder / "logits")], input=images, capture_output=True, check=True).stdout
        self.assertEqual(len(out), len(logits))
        got = struct.unpack(f"<{len(out) // 4}f", out)
        want = struct.unpack(f"<{len(logits) // 4}f", logits)
        largest = max(1.0, max(map(abs, want)))
        self.assertLess(max(abs(a - b) for a, b in zip(got, want)) / largest, 1e-4)
        self.assertGreater(count, 1)

    @unittest.skipUnless(ORT_PYTHON, "ONNX Runtime is not installed (scripts/bootstrap --only test)")
    def test_onnx_gives_the_same_logits(self):
        tensors = read_safetensors(self.run_dir / "subnet" / "reference.safetensors")
        (_, height, width, channels), images = tensors["input"]
        (_, classes), logits = tensors["logits"]
        pixels = struct.unpack(f"<{height * width * channels}f", images[:4 * height * width * channels])
        # The ONNX world's order is [channels, height, width].
        planar = [pixels[(y * width + x) * channels + c]
                  for c in range(channels) for y in range(height) for x in range(width)]
        (self.folder / "in.bin").write_bytes(struct.pack(f"<{len(planar)}f", *planar))
        (self.folder / "out.bin").write_bytes(logits[:4 * classes])
        done = subprocess.run(
            [ORT_PYTHON, str(ROOT / "scripts" / "check_onnx.py"), str(self.run_dir / "export" / "model.onnx"),
             str(self.folder / "in.bin"), str(self.folder / "out.bin"), "1e-4"],
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_manifest_names_every_file(self):
        import hashlib
        export = self.run_dir / "export"
        manifest = json.loads((export / "manifest.json").read_text())
        for name, digest in manifest["files"].items():
            self.assertEqual(hashlib.sha256((export / name).read_bytes()).hexdigest(), digest, name)
        there = {str(p.relative_to(export)) for p in export.rglob("*") if p.is_file()}
        self.assertEqual(there - {"manifest.json"}, set(manifest["files"]))

    def test_repeating_does_nothing_again(self):
        before = (self.run_dir / "result.json").read_bytes()
        done = self.helper.chanas("run", "--run-dir", "r")
        self.assertEqual(done.stderr.count("done before"), 9, done.stderr)
        self.assertEqual((self.run_dir / "result.json").read_bytes(), before)

    def test_report_is_self_contained(self):
        page = (self.run_dir / "report.html").read_text()
        self.assertNotRegex(page, r'(src|href)="http')
        for svg in re.findall(r"<svg.*?</svg>", page, re.S):
            xml.dom.minidom.parseString(svg)
        self.assertGreaterEqual(page.count("<svg"), 6)

    def test_commands_on_a_finished_run(self):
        explained = self.helper.chanas_json("explain", "--run-dir", "r")
        self.assertGreater(len(explained["stages"]), 3)
        self.assertRegex(explained["stages"][0]["schedule"], r"op\d+\.vector=\d+")
        listed = self.helper.chanas("lut", "list", "--store", "r/chanas.db")
        self.assertIn("conv1x1", listed.stdout)
        checked = self.helper.chanas_json("lut", "check", "--run-dir", "r", "--networks", "4", "--rows", "4")
        self.assertIn("mape", checked["networks"])

    def test_bench(self):
        bench = self.helper.chanas_json("bench", ROOT / "tests" / "tiny_network.toml", "--repeats", "2", "--samples", "10")
        self.assertEqual(len(bench["repeats"]), 2)
        self.assertGreater(bench["repeats"][0]["median_us"], 0)


if __name__ == "__main__":
    unittest.main()
