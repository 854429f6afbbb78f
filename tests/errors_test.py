"""What a user gets to read when something is wrong, and that nothing is lost."""
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
import unittest

from chanas_test_case import BIN, ROOT, ChanasTestCase


class ErrorsTest(ChanasTestCase):
    def test_unknown_key_names_the_nearest(self):
        config = self.config()
        config.write_text(config.read_text().replace("trials = 2", "trails = 2"))
        done = self.chanas("run", "--config", config, expect=3)
        self.assertIn('unknown key "trails"', done.stderr)
        self.assertIn('did you mean "trials"', done.stderr)
        self.assertIn("tiny.toml:", done.stderr)

    def test_usage(self):
        self.assertIn("--nonsense", self.chanas("run", "--nonsense", expect=2).stderr)
        self.chanas("fly", expect=2)

    def test_bad_flags_leave_no_trace(self):
        for flags, code in [(["--threads", "900"], 3), (["--limit-ms", "-1"], 2), (["--budget", "5 parsecs"], 2),
                            (["--from", "nosuch"], 2), (["--space", "nosuch"], 3)]:
            self.chanas("run", "--run-dir", "r", *flags, expect=code)
            self.assertFalse((self.folder / "r").exists(), flags)

    def test_every_command_has_help_with_an_example(self):
        for command in ["run", "space", "tune", "train", "rank-check", "predict", "search", "export", "report", "bench",
                        "explain", "doctor"]:
            self.assertIn("example:", self.chanas(command, "--help").stdout, command)
        self.assertIn("check", self.chanas("lut", "--help").stdout)

    def test_reader_that_has_had_enough_is_no_error(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as closed:
            done = subprocess.run(
                [BIN / "chanas", "explain", "mobilenet_v3_large", "--device", "simulated", "--schedule", "units.3"],
                stdout=closed, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.returncode, 128 + signal.SIGPIPE)

    def test_impossible_limit_is_refused_before_training(self):
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", "--limit-ms", "0.000001", expect=4)
        self.assertIn("smallest latency", done.stderr)
        self.assertFalse((self.folder / "r" / "stages" / "train.json").exists())
        self.assertFalse((self.folder / "r" / "supernet").exists())

    def test_missing_data(self):
        done = self.chanas("run", "--config", self.config(), "--data", "/nowhere.tar.gz", expect=3)
        self.assertIn("/nowhere.tar.gz", done.stderr)

    def test_store_from_a_newer_version(self):
        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "tune")
        database = self.folder / "r" / "chanas.db"
        with contextlib.closing(sqlite3.connect(database)) as db:
            records = db.execute("SELECT count(*) FROM records").fetchone()
            db.execute("PRAGMA user_version = 999")
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", "--from", "tune", expect=3)
        self.assertIn("999", done.stderr)
        with contextlib.closing(sqlite3.connect(database)) as db:
            self.assertEqual(db.execute("PRAGMA user_version").fetchone(), (999,))
            self.assertEqual(db.execute("SELECT count(*) FROM records").fetchone(), records)

    def test_truncated_store(self):
        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "tune")
        database = self.folder / "r" / "chanas.db"
        database.write_bytes(database.read_bytes()[:5000])
        for extra in ("-wal", "-shm"):
            pathlib.Path(str(database) + extra).unlink(missing_ok=True)
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", "--from", "tune", expect=3)
        self.assertIn("chanas.db", done.stderr)

    def test_damaged_stage_file_is_done_again(self):
        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "tune")
        (self.folder / "r" / "stages" / "tune.json").write_text('{"inputs": ')
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "tune")
        self.assertIn("damaged", done.stderr)

    def test_truncated_checkpoint_says_so(self):
        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "train")
        checkpoints = [p for p in (self.folder / "r" / "supernet").rglob("*.safetensors")]
        self.assertTrue(checkpoints)
        for path in checkpoints:
            path.write_bytes(path.read_bytes()[:1000])
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "narrow", expect=3)
        self.assertIn("supernet", done.stderr)

    def test_another_config_goes_on_in_the_same_run(self):
        self.chanas("run", "--config", self.config(), "--run-dir", "r", "--until", "train")
        done = self.chanas("run", "--run-dir", "r", "--seed", "6", "--until", "train")
        self.assertIn("run.seed was 5 in this run, now it is 6", done.stderr)
        self.assertNotIn("train: supernet (done before", done.stderr)
        done = self.chanas("run", "--run-dir", "r", "--limit-ms", "1", "--until", "train")
        self.assertIn("train: supernet (done before", done.stderr)

    def test_changed_files_are_noticed(self):
        config = self.config()
        space = self.folder / "own.toml"
        shutil.copyfile(ROOT / "tests" / "tiny_space.toml", space)
        command = ["run", "--config", config, "--space", "own.toml", "--run-dir", "r", "--until", "tune"]
        self.chanas(*command)
        self.assertIn("space and data (done before", self.chanas(*command).stderr)
        (self.folder / "r" / "result.json").write_text("{}")
        self.assertIn("result.json is damaged", self.chanas(*command, expect=3).stderr)
        space.write_text(space.read_text().replace("expands = [3]", "expands = [4]"))
        changed = self.chanas(*command)
        self.assertNotIn("done before", changed.stderr)
        # What came of other stages is no result of this run.
        self.assertFalse((self.folder / "r" / "result.json").exists())

    def test_full_disk(self):
        """No file may grow over 100 kB: the run says which, and goes on when there is room."""
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        command = ["run", "--config", self.config(), "--run-dir", "r", "--until", "train"]
        done = subprocess.run([str(BIN / "chanas"), *map(str, command)], capture_output=True, text=True,
                              cwd=self.folder, preexec_fn=limit, timeout=300)
        self.assertIn(done.returncode, (1, 75), done.stderr)
        self.assertRegex(done.stderr, "error: .*r/.*(File too large|disk|full)")
        self.chanas(*command)

    def test_records_of_another_device_or_thread_count_are_not_mixed(self):
        network = ROOT / "tests" / "tiny_network.toml"
        tune = ["tune", network, "--trials", "2", "--store", "t.db", "--device", "simulated"]
        self.chanas(*tune)
        with contextlib.closing(sqlite3.connect(self.folder / "t.db")) as db:
            records = db.execute("SELECT count(*) FROM records").fetchone()[0]
        use = ["explain", network, "--store", "t.db", "--device"]
        done = self.chanas(*use, "simulated", "--threads", "2", expect=3)
        self.assertRegex(done.stderr, "no rows for device .* plan threads2.*it has: .*plan threads1.*tune")
        done = self.chanas(*use, "local", expect=3)
        self.assertRegex(done.stderr, "no rows for device .*it has: device .*tune")
        self.chanas(*use, "simulated")
        # The other thread count is measured beside the first; nothing of that is lost or used again.
        self.chanas(*tune, "--threads", "2")
        with contextlib.closing(sqlite3.connect(self.folder / "t.db")) as db:
            self.assertEqual(db.execute("SELECT count(*) FROM records").fetchone()[0], 2 * records)

    def test_two_runs_in_one_folder(self):
        first = subprocess.Popen(
            [str(BIN / "chanas"), "run", "--config", str(self.config()), "--run-dir", "r"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", expect=75)
        self.assertIn("in use", done.stderr)
        first.kill()
        first.wait()

    def test_doctor_tells_a_restless_clock_from_a_kernel_that_does_not_run(self):
        for fault, found, mend in [("drift:canary", "device clock", "stop other programs"),
                                   ("crash", "device", "please report this")]:
            done = self.chanas("doctor", "--json", expect=69, environment={"CHANAS_KERNEL_FAULT": fault})
            bad = [check for check in json.loads(done.stdout) if not check["ok"]]
            self.assertEqual([check["check"] for check in bad], [found], bad)
            self.assertIn(mend, bad[0]["mend"])

    def test_killed_children_do_not_end_a_run(self):
        if not shutil.which(str(BIN / "chanas-kernel")):
            self.skipTest("built without Halide")
        done = self.chanas("tune", ROOT / "tests" / "tiny_network.toml", "--trials", "1", "--store", "t.db",
                           expect=1, environment={"CHANAS_KERNEL_FAULT": "crash"})
        self.assertIn("signal 11", done.stderr)
        self.chanas("tune", ROOT / "tests" / "tiny_network.toml", "--trials", "2", "--store", "t2.db")


if __name__ == "__main__":
    unittest.main()
