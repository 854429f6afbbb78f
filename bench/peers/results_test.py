#!/usr/bin/env python3
"""Tests of the table that bench-peers prints: which peer counts, and the three ratios."""
import contextlib
import io
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import results  # noqa: E402


def row(engine, median, least, rounds, network="net", error=0.0):
    return {"network": network, "threads": 1, "engine": engine, "median_us": median, "min_us": least,
            "relative_error": error, "round_medians_us": rounds}


def table(rows, layers=()):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        results.print_table(rows, ["slow", "fast", "chanas"], list(layers))
    return text.getvalue().splitlines()


class Ratios(unittest.TestCase):
    # The fastest peer by medians is not the one with the least minimum, and a disturbed round (the
    # second) moves the ratio of medians alone.
    ROWS = [row("slow", 3000, 1500, [3000, 9000, 3000]), row("fast", 2000, 1800, [2000, 8000, 2400]),
            row("chanas", 1000, 1000, [1000, 5000, 1000])]

    def test_each_has_its_own_best_peer(self):
        header, line, *_ = table(self.ROWS)
        self.assertEqual(line.split(), ["net", "1", "3.000", "2.000", "1.000", "fast",
                                        "2.00", "2.00", "1.50"])
        self.assertLess(header.index("best / ours"), header.index("in rounds"))
        self.assertLess(header.index("in rounds"), header.index("by minima"))

    def test_rounds_without_a_time_do_not_count(self):
        peer, ours = row("fast", 1, 1, [4.0, None, 9.0, 6.0]), row("chanas", 1, 1, [2.0, 1.0, None, 2.0])
        self.assertEqual(results.ratio_within_rounds(peer, ours), 2.5)
        self.assertEqual(results.ratio_within_rounds(row("fast", 1, 1, [None]), ours), float("inf"))

    def test_ours_alone_has_no_ratio(self):
        line = table([row("chanas", 1000, 1000, [1000])])[1]
        self.assertEqual(line.split(), ["net", "1", "1.000", "-", "-", "-", "-"])

    def test_an_engine_that_deviates_is_marked(self):
        line = table([*self.ROWS[1:], row("slow", 3000, 1500, [3000], error=2e-4)])[1]
        self.assertIn("3.000!", line)


class Sums(unittest.TestCase):
    def test_engines_that_ran_every_layer(self):
        rows = [row("chanas", 1000, 1, [1], "S1"), row("chanas", 2000, 1, [1], "S2"),
                row("fast", 3000, 1, [1], "S1"), row("fast", 4500, 1, [1], "S2"),
                row("slow", 9000, 1, [1], "S1")]
        self.assertIn("Table 3 separable, 1 thread(s), sum in ms: fast 7.50 (2.50x), chanas 3.00",
                      table(rows, ["L1", "L2"]))
        self.assertFalse([line for line in table(rows[:1], ["L1", "L2"]) if "Table 3" in line])


if __name__ == "__main__":
    unittest.main()
