"""`chanas rank-check`: networks from scratch beside the supernet, going on after an interruption."""
import json
import os
import signal
import subprocess
import time
import unittest

from chanas_test_case import BIN, ChanasTestCase


class RankCheckTest(ChanasTestCase):
    def setUp(self):
        super().setUp()
        # One core is faster for such small networks when others use the machine, too.
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        self.addCleanup(os.sched_setaffinity, 0, cores)

    def test_goes_on_after_an_interruption(self):
        done = self.chanas("rank-check", "--run-dir", "r", expect=1)
        self.assertIn("chanas train", done.stderr)

        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "train")
        images = json.loads((self.folder / "r" / "stages" / "space.json").read_text())["output"]["images"]
        # Enough to tell networks apart by more than chance: 30 % of all, then of the rest, by class.
        self.assertEqual([images["test"], images["ranking"]], [180, 130])
        options = ["rank-check", "--run-dir", "r", "--networks", "6", "--epochs", "1"]
        kept = self.folder / "r" / "rank-check" / "accuracies.jsonl"
        child = subprocess.Popen([str(BIN / "chanas"), *options], cwd=self.folder,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while not (kept.exists() and kept.read_text().count("\n") >= 2) and time.monotonic() < end:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130, errors)
        before = kept.read_text().splitlines()
        self.assertGreaterEqual(len(before), 2)
        self.assertLess(len(before), 6)

        result = self.chanas_json(*options)
        after = kept.read_text().splitlines()
        self.assertEqual(after[: len(before)], before)
        self.assertEqual(len(after), 6)
        self.assertEqual(len(result["networks"]), 6)
        self.assertEqual(result["networks"], sorted(result["networks"], key=lambda n: n["macs"]))
        self.assertEqual([b["networks"] for b in result["bands"]], [6, 2, 2, 2])
        for tau in (result["bands"][0][k] for k in ("supernet", "macs", "params")):
            self.assertLessEqual(tau["low"], tau["tau"] + 1e-9)
            self.assertLessEqual(abs(tau["tau"]), 1)
        self.assertEqual(json.loads((self.folder / "r" / "rank_check.json").read_text()), result)
        # Nothing is trained twice.
        self.assertEqual(self.chanas_json(*options), result)
        self.assertEqual(kept.read_text().splitlines(), after)
        self.assertIn("Kendall", self.chanas(*options).stdout)

        # Another training of each: the first ones are kept, the truth is the mean.
        twice = self.chanas_json(*options, "--repeats", "2")
        self.assertEqual(kept.read_text().splitlines()[:6], after)
        self.assertEqual(len(kept.read_text().splitlines()), 12)
        for once, network in zip(result["networks"], twice["networks"]):
            first, second = network["trainings"]
            self.assertEqual([first], once["trainings"])
            self.assertAlmostEqual(network["from_scratch"], (first + second) / 2)
        self.assertLessEqual(abs(twice["among_repeats"]), 1)
        self.assertNotIn("among_repeats", result)

        # Another recipe, other trainings.
        config = self.config(name="other.toml")
        config.write_text(config.read_text().replace("[train]", "[train]\nlearning_rate = 0.1"))
        self.chanas_json(*options, "--config", config)
        self.assertEqual(len(kept.read_text().splitlines()), 18)

        # How many are trained side by side decides nothing.
        kept.unlink()
        self.assertEqual(self.chanas_json(*options, "--jobs", "3"), result)
        self.assertEqual(sorted(kept.read_text().splitlines()), sorted(after))


if __name__ == "__main__":
    unittest.main()
