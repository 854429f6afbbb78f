"""A run killed at 20 random points gives the same result as an undisturbed one (simulated device,
so that no measurement differs)."""
import json
import signal
import subprocess
import time
import unittest

from chanas_test_case import BIN, ChanasTestCase

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
        def kill(child, chance, duration):
            # Early points in a run are as likely as late ones: each attempt covers about a third.
            try:
                child.communicate(timeout=chance.uniform(0.02, duration / 3))
            except subprocess.TimeoutExpired:
                child.kill()

        self.assert_kills_change_nothing(self.command, self.outputs, kill)

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
