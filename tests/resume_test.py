"""A run killed at 20 random points gives the same result as an undisturbed one (simulated device,
so that no measurement differs)."""
import json
import random
import signal
import subprocess
import time
import unittest

from chanas_test_case import BIN, ChanasTestCase

KILLS = 20
STAGES = ["space", "tune", "train", "narrow", "predict", "search", "verify"]


class ResumeTest(ChanasTestCase):
    def outputs(self, run):
        out = {}
        for stage in STAGES:
            record = json.loads((self.folder / run / "stages" / f"{stage}.json").read_text())
            out[stage] = record["output"]
        # Speeds of the machine and the path that progress took are not results.
        for point in out["train"]["history"]:
            point.pop("images_per_s", None)
        out["tune"].pop("history", None)
        return out

    def command(self, run):
        return [str(BIN / "chanas"), "run", "--config", str(self.config()), "--run-dir", run, "--until", "verify"]

    def test_killed_runs_end_the_same(self):
        start = time.monotonic()
        subprocess.run(self.command("whole"), cwd=self.folder, check=True, capture_output=True, timeout=300)
        duration = time.monotonic() - start
        want = self.outputs("whole")

        chance = random.Random(7)
        kills = finished = rounds = 0
        while kills < KILLS:
            rounds += 1
            self.assertLess(rounds, 4 * KILLS, "kills never hit the run")
            run = f"killed{finished}"
            child = subprocess.Popen(
                self.command(run), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Early points in a run are as likely as late ones: each attempt covers about a third.
            try:
                child.wait(timeout=chance.uniform(0.02, duration / 3))
                self.assertEqual(child.returncode, 0)
                self.assertEqual(self.outputs(run), want)
                finished += 1
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                kills += 1
        run = f"killed{finished}"
        done = subprocess.run(self.command(run), cwd=self.folder, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.outputs(run), want)

    def test_interrupt_saves_and_says_how_to_go_on(self):
        command = [str(BIN / "chanas"), "run", "--config", str(self.config()), "--run-dir", "r"]
        child = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130, errors)
        self.assertIn("repeat the same command", errors)


if __name__ == "__main__":
    unittest.main()
