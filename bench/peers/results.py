"""What bench-peers makes of its measurements: rows of peers.json as a table of times and ratios."""
import statistics

TOLERANCE = 1e-4  # of the largest output
OURS = "chanas"


def best_peer(rows, field="median_us"):
    peers = [row for row in rows if row["engine"] != OURS]
    return min(peers, key=lambda row: row[field]) if peers else None


def ratio_within_rounds(peer, ours):
    """Median over the rounds of peer / ours: what slows a whole round down does not count."""
    pairs = zip(peer["round_medians_us"], ours["round_medians_us"])
    ratios = [theirs / own for theirs, own in pairs if theirs and own]
    return statistics.median(ratios) if ratios else float("inf")


def cell(row):
    return "-" if row is None else f"{row['median_us'] / 1e3:.3f}{'!' if row['relative_error'] > TOLERANCE else ''}"


def print_table(results, engines, layers):
    """`engines` in the order of the columns; `layers`: names of Table 3's rows, L1 and so on."""
    names = [name for name in engines if any(row["engine"] == name for row in results)]
    groups = {}
    for row in results:
        groups.setdefault((row["network"], row["threads"]), []).append(row)
    lines = [["network", "threads", *names, "best peer", "best / ours", "in rounds", "by minima"]]
    for (network, threads), rows in groups.items():
        by_name = {row["engine"]: row for row in rows}
        best, ours = best_peer(rows), by_name.get(OURS)
        low = best_peer(rows, "min_us")
        ratios = ["-", "-", "-"]
        if best and ours:
            within = min(ratio_within_rounds(row, ours) for row in rows if row is not ours)
            ratios = [f"{best['median_us'] / ours['median_us']:.2f}",
                      f"{within:.2f}",
                      f"{low['min_us'] / ours['min_us']:.2f}"]
        lines.append([network, str(threads), *(cell(by_name.get(name)) for name in names),
                      best["engine"] if best else "-", *ratios])
    width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(w) if i == 0 else text.rjust(w)
                        for i, (text, w) in enumerate(zip(line, width))))
    print("medians in ms; in rounds: median over the rounds of the ratio of medians, of the peer that is nearest; "
          "!: output deviates by more than 1e-4 of the largest")
    print_sums(groups, names, layers)


def print_sums(groups, names, layers):
    """Table 3 as a whole: the sum of all its layers for each engine that ran them all."""
    for letter, reading in (("L", "dense"), ("S", "separable")):
        for threads in sorted({threads for _, threads in groups}):
            layer_rows = [groups.get((letter + row[1:], threads)) for row in layers]
            if not all(layer_rows):
                continue
            sums = {}
            for name in names:
                times = [row["median_us"] for rows in layer_rows for row in rows if row["engine"] == name]
                if len(times) == len(layer_rows):
                    sums[name] = sum(times) / 1e3
            ours = sums.get(OURS)
            print(f"Table 3 {reading}, {threads} thread(s), sum in ms: " + ", ".join(
                f"{name} {value:.2f}" + (f" ({value / ours:.2f}x)" if ours and name != OURS else "")
                for name, value in sums.items()))
