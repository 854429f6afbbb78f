"""embed.py OUTPUT FUNCTION FILE...: a C++ source that returns the files as (name, contents); those
that end in .gz uncompressed and without that."""
import gzip
import os
import sys

output, function, *files = sys.argv[1:]
with open(output + ".tmp", "w", encoding="utf-8") as out:
    out.write("#include <string>\n#include <utility>\n#include <vector>\n\nnamespace chanas {\n")
    out.write(f"std::vector<std::pair<std::string, std::string>> {function}() {{\n  return {{\n")
    for path in files:
        is_compressed = path.endswith(".gz")
        name = os.path.basename(path).removesuffix(".gz")
        with (gzip.open if is_compressed else open)(path, "rt", encoding="utf-8") as file:
            text = file.read()
        # Compilers limit the length of one literal; adjacent ones are joined.
        pieces = [text[i : i + 8000] for i in range(0, len(text), 8000)] or [""]
        out.write(f'    {{"{name}", std::string()\n')
        for piece in pieces:
            out.write(f'        + std::string(R"CHANAS_({piece})CHANAS_", {len(piece.encode())})\n')
        out.write("    },\n")
    out.write("  };\n}\n}  // namespace chanas\n")
os.replace(output + ".tmp", output)
