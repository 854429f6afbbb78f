#!/usr/bin/env python3
"""make.py TABLES.json OUTPUT.json.gz

Records that the program carries for searches to start from, out of what `chanas lut export --all`
wrote: of every workload the default schedule and the KEPT fastest others. See ../pretraining.h."""
import gzip
import json
import sys

KEPT = 2


def trials_of(records):
    last = {}  # the last measurement of a schedule counts
    for record in records:
        last[tuple(record["schedule"])] = record
    valid = [r for r in last.values() if r["result"]["error"] == "none"]
    valid.sort(key=lambda r: (r["origin"] != "default", r["result"]["latency_us"]))
    defaults = sum(r["origin"] == "default" for r in valid)
    return [[round(r["result"]["latency_us"], 1), *r["schedule"]] for r in valid[: defaults + KEPT]]


def main():
    source, output = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        tables = json.load(file)
    tables.sort(key=lambda table: table["threads"])
    result = [
        {
            "device": table["device"],
            "threads": table["threads"],
            "schedule_version": table["schedule_version"],
            "workloads": [
                {"graph": entry["workload"], "trials": trials}
                for entry in table["workloads"]
                if (trials := trials_of(entry["records"]))
            ],
        }
        for table in tables
    ]
    text = json.dumps(result, separators=(",", ":"))
    with open(output, "wb") as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{output}: {len(text)} bytes, {sum(len(w['trials']) for t in result for w in t['workloads'])} trials")


main()
