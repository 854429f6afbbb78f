"""What the end-to-end tests share: running the built program in a folder of its own."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("CHANAS_BIN", ROOT / "build" / "release" / "bin"))

# Everything small: the whole road in well under a minute.
TINY = """
[run]
space = "{space}"
data = "builtin"
device = "{device}"
limit_ms = {limit_ms}
seed = 5
[tune]
trials = 2
boundary_networks = 4
[train]
epochs = 1
batch_size = 32
builtin_images = 600
[narrow]
delta = 50
probes = 2
[predict]
samples = 20
images = 50
hidden = 16
recalibration_images = 64
[search]
population = 20
generations = 5
[verify]
finalists = 3
samples = 20
"""


class ChanasTestCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="chanas-test."))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def config(self, device="simulated", limit_ms=0, name="tiny.toml"):
        path = self.folder / name
        path.write_text(TINY.format(space=ROOT / "tests" / "tiny_space.toml", device=device, limit_ms=limit_ms))
        return path

    def chanas(self, *arguments, expect=0, timeout=300, environment=None):
        """Runs the program; returns its CompletedProcess after checking the exit code."""
        done = subprocess.run(
            [str(BIN / "chanas"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
        )
        self.assertEqual(done.returncode, expect, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def chanas_json(self, *arguments, **options):
        return json.loads(self.chanas("--json", *arguments, **options).stdout)

    def assert_kills_change_nothing(self, command, result, kill, kills=20):
        """command(name), killed at random points and repeated, ends with the result of command("whole").

        kill(child, chance, duration) lets a running child live for a while and kills it, unless it ends before;
        the undisturbed command has taken `duration` seconds.
        """
        def complete(name):
            done = subprocess.run(command(name), cwd=self.folder, capture_output=True, text=True, timeout=300)
            self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
            return result(name)

        start = time.monotonic()
        want = complete("whole")
        duration = time.monotonic() - start
        chance = random.Random(5)
        hits = finished = rounds = 0
        while hits < kills:
            rounds += 1
            self.assertLess(rounds, 4 * kills, "kills never hit")
            with subprocess.Popen(command(f"killed{finished}"), cwd=self.folder, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                kill(child, chance, duration)
            if child.returncode == -signal.SIGKILL:
                hits += 1
                continue
            self.assertEqual(child.returncode, 0)
            self.assertEqual(result(f"killed{finished}"), want)
            finished += 1
        self.assertEqual(complete(f"killed{finished}"), want)
