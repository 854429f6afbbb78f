#!/usr/bin/env python3
"""Does the generalisation-gap loss help? Trains one supernet per loss and seed, equal in everything
else (steps too), and compares the accuracy of the same sampled networks, seed by seed.

    make bench-gap-loss                                                    # built-in images
    make bench-gap-loss CONFIG=my.toml DATA=cifar10.tar.gz NAME=cifar10

Trainings run side by side, one core each; finished ones are kept, so that the same command goes on.
Results: a table, and bench/out/gap_loss_NAME.json.
"""
import argparse
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

LOSSES = {
    "plain": "training part alone",
    "data_matched": "training and gap part as one",
    "gap": "with the gap, as printed in the paper",
    "gap_one_sided": "with the gap where it is positive",
}


def say(text):
    print(f"bench-gap-loss: {text}", file=sys.stderr, flush=True)


def student_two_sided(t, degrees):
    """Share of Student's distribution beyond +-t (Simpson's rule)."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    steps = 20000
    width = abs(t) / steps
    total = sum((1 if i in (0, steps) else 4 if i % 2 else 2) *
                (1 + (i * width) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(steps + 1))
    return max(0.0, 1 - 2 * scale * total * width / 3)


def paired(ours, theirs):
    """Mean of the differences, their standard deviation and the two-sided p of a paired t-test."""
    differences = [a - b for a, b in zip(ours, theirs)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, float("nan"), float("nan")
    deviation = statistics.stdev(differences)
    if deviation == 0:
        return mean, 0.0, 1.0 if mean == 0 else 0.0
    return mean, deviation, student_two_sided(mean / (deviation / math.sqrt(len(differences))), len(differences) - 1)


def train(options, folder, loss, seed, core):
    """Runs the stages up to the labels of the accuracy predictor, pinned to one core."""
    config = folder / "config.toml"
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(options.config).read_text() if options.config else "[train]\n"
    if "[train]" not in text:
        text += "\n[train]\n"
    config.write_text(text.replace("[train]", f'[train]\nloss = "{loss}"', 1))
    command = ["taskset", "-c", str(core), options.bin + "/chanas", "run", "--config", str(config), "--run-dir",
               str(folder / "run"), "--device", "simulated", "--until", "predict", "--seed", str(seed), "--quiet"]
    if options.data:
        command += ["--data", options.data]
    with open(folder / "log.txt", "w") as log:
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {(folder / 'log.txt').read_text()[-500:]}")


def labels_of(folder):
    """Accuracy on the ranking part by architecture."""
    lines = (folder / "run" / "evaluations.jsonl").read_text().splitlines()
    return {key.split(" ", 1)[0]: accuracy for key, accuracy in map(json.loads, lines) if " ranking " in key}


def result_of(folder, shared):
    labels = labels_of(folder)
    stage = json.loads((folder / "run" / "stages" / "train.json").read_text())
    output = stage["output"]
    return {
        "mean": 100 * statistics.mean(labels[arch] for arch in shared), "networks": len(shared),
        "largest": 100 * output["accuracy_largest"], "smallest": 100 * output["accuracy_smallest"],
        "steps": output["steps"], "seconds": stage["seconds"],
        "mean_gap": output["mean_gap"], "negative_share": output["negative_gap_share"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of the programs")
    parser.add_argument("--config", default="", help="configuration of a run; none: the demo")
    parser.add_argument("--data", default="", help="images; none: those of the configuration")
    parser.add_argument("--name", default="builtin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="bench/out")
    options = parser.parse_args()

    out = Path(options.out)

    def folder_of(loss, seed):
        return out / f"gap_loss_{options.name}" / f"{loss}-{seed}"

    cores = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    # Seed by seed, so that an early end leaves whole comparisons.
    jobs = [(loss, seed) for seed in range(1, options.seeds + 1) for loss in LOSSES]
    waiting = iter(jobs)
    lock, failures, start, done = threading.Lock(), [], time.time(), [0]

    def work():
        core = cores.get()
        while not failures:
            with lock:
                job = next(waiting, None)
            if job is None:
                return
            try:
                train(options, folder_of(*job), *job, core)
            except Exception as error:  # told below
                failures.append(str(error))
                return
            with lock:
                done[0] += 1
                left = (time.time() - start) / done[0] * (len(jobs) - done[0])
                say(f"{done[0]} of {len(jobs)} trained ({job[0]}, seed {job[1]}), about {left / 60:.0f} min left")

    workers = [threading.Thread(target=work) for _ in range(cores.qsize())]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        sys.exit(f"bench-gap-loss: {failures[0]}")

    results = {loss: [] for loss in LOSSES}
    for seed in range(1, options.seeds + 1):
        shared = sorted(set.intersection(*(set(labels_of(folder_of(loss, seed))) for loss in LOSSES)))
        for loss in LOSSES:
            results[loss].append(result_of(folder_of(loss, seed), shared))
    networks = results["plain"][0]["networks"]
    steps = {result["steps"] for of_loss in results.values() for result in of_loss}
    assert len(steps) == 1, f"trainings of different lengths: {steps}"
    print(f"{options.name}: {steps.pop()} steps, {options.seeds} seeds; accuracy on the ranking part, mean of {networks} networks")
    print(f"{'loss':15} {'mean %':>7} {'largest':>8} {'smallest':>9} {'- plain':>8} {'+-':>6} {'p':>6} "
          f"{'- matched':>10} {'+-':>6} {'p':>6} {'gap':>7} {'negative':>9} {'s':>6}")
    report = []
    for loss, of_loss in results.items():
        def column(name, of=of_loss):
            return [result[name] for result in of]
        entry = {"loss": loss, "description": LOSSES[loss], "seeds": of_loss}
        text = f"{loss:15} {statistics.mean(column('mean')):7.2f} {statistics.mean(column('largest')):8.2f} " \
               f"{statistics.mean(column('smallest')):9.2f}"
        for width, other in ((8, "plain"), (10, "data_matched")):
            if other == loss:
                text += f" {'':>{width}} {'':>6} {'':>6}"
                continue
            mean, deviation, p = paired(column("mean"), column("mean", results[other]))
            entry[f"against_{other}"] = {"mean": mean, "deviation": deviation, "p": p}
            text += f" {mean:+{width}.2f} {deviation:6.2f} {p:6.3f}"
        text += f" {statistics.mean(column('mean_gap')):+7.3f} {100 * statistics.mean(column('negative_share')):8.1f}%" \
                f" {statistics.median(column('seconds')):6.0f}"
        print(text)
        report.append(entry)
    path = out / f"gap_loss_{options.name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
