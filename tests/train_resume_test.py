"""chanas-nn killed in the middle of training at 20 random points ends with the same weights."""
import hashlib
import json
import tomllib
import unittest

from chanas_test_case import BIN, ROOT, ChanasTestCase


class TrainResumeTest(ChanasTestCase):
    def job(self, folder):
        space = tomllib.loads((ROOT / "tests" / "tiny_space.toml").read_text())
        train = {"epochs": 4, "batch_size": 16, "checkpoint_every_s": 0, "trainer": "progressive",
                 "loss": "gap", "threads": 1, "seed": 3}
        path = self.folder / f"{folder}.json"
        path.write_text(json.dumps({
            "space": {"name": "tiny", **space},
            "data": {"builtin_images": 300, "seed": 3},
            "train": train,
            "folder": str(self.folder / folder),
        }))
        return [str(BIN / "chanas-nn"), "train", str(path)]

    def weights(self, folder):
        newest = sorted((self.folder / folder).glob("checkpoint-*.safetensors"))[-1]
        return newest.name, hashlib.sha256(newest.read_bytes()).hexdigest()

    def test_killed_training_ends_the_same(self):
        def kill(child, chance, _):
            # So many events of this attempt are let through.
            for _ in range(chance.randint(1, 14)):
                line = child.stdout.readline()
                if not line or '"result"' in line:
                    return
            child.kill()

        self.assert_kills_change_nothing(self.job, self.weights, kill)


if __name__ == "__main__":
    unittest.main()
