"""What a user gets to read when something is wrong, and that nothing is lost."""
import contextlib
import pathlib
import shutil
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

    def test_every_command_has_help_with_an_example(self):
        for command in ["run", "space", "tune", "train", "rank-check", "predict", "search", "export", "report", "bench",
                        "explain", "doctor"]:
            self.assertIn("example:", self.chanas(command, "--help").stdout, command)
        self.assertIn("check", self.chanas("lut", "--help").stdout)

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

    def test_two_runs_in_one_folder(self):
        first = subprocess.Popen(
            [str(BIN / "chanas"), "run", "--config", str(self.config()), "--run-dir", "r"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        done = self.chanas("run", "--config", self.config(), "--run-dir", "r", expect=75)
        self.assertIn("in use", done.stderr)
        first.kill()
        first.wait()

    def test_killed_children_do_not_end_a_run(self):
        if not shutil.which(str(BIN / "chanas-kernel")):
            self.skipTest("built without Halide")
        done = self.chanas("tune", ROOT / "tests" / "tiny_network.toml", "--trials", "1", "--store", "t.db",
                           expect=1, environment={"CHANAS_KERNEL_FAULT": "crash"})
        self.assertIn("signal 11", done.stderr)
        self.chanas("tune", ROOT / "tests" / "tiny_network.toml", "--trials", "2", "--store", "t2.db")


if __name__ == "__main__":
    unittest.main()
