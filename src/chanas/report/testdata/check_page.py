"""Checks a report page with Python's XML parser: well-formed, self-contained, and everything that
the figures draw is inside their viewBox. Prints what is wrong; exit code 1 if anything is."""
import math
import re
import sys
import xml.etree.ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
problems = []


def check_place(where, x, y, box):
    # Half a mark or a stroke may stick out.
    if not (box[0] - 6 <= x <= box[0] + box[2] + 6 and box[1] - 6 <= y <= box[1] + box[3] + 6):
        problems.append(f"{where}: ({x}, {y}) is outside the viewBox {box}")


def path_places(d):
    """Absolute M, L, H, V and Z; a relative command ends the check."""
    x = y = 0.0
    for command, rest in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        values = [float(v) for v in NUMBER.findall(rest)]
        if command in "ML":
            x, y = values
        elif command == "H":
            x = values[0]
        elif command == "V":
            y = values[0]
        elif command.islower():
            return
        yield x, y


def check_shapes(element, box, dx=0.0, dy=0.0):
    shift = re.fullmatch(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
    if shift:
        dx, dy = dx + float(shift[1]), dy + float(shift[2])
    tag = element.tag.replace(SVG, "")
    get = lambda name: float(element.get(name, "0"))
    if tag == "rect":
        check_place(tag, get("x") + dx, get("y") + dy, box)
        check_place(tag, get("x") + get("width") + dx, get("y") + get("height") + dy, box)
        if get("width") <= 0 or get("height") <= 0:
            problems.append("rect without area")
    elif tag == "line":
        check_place(tag, get("x1") + dx, get("y1") + dy, box)
        check_place(tag, get("x2") + dx, get("y2") + dy, box)
    elif tag == "text":
        width = 7.5 * len(element.text or "")
        left = {"start": 0, "middle": width / 2, "end": width}[element.get("text-anchor")]
        check_place(f"text '{element.text}'", get("x") + dx - left, get("y") + dy, box)
        check_place(f"text '{element.text}'", get("x") + dx - left + width, get("y") + dy, box)
    elif tag == "path":
        for x, y in path_places(element.get("d")):
            check_place(tag, x + dx, y + dy, box)
    elif tag == "g" and shift:
        check_place("mark", dx, dy, box)
    for child in element:
        check_shapes(child, box, dx, dy)


page = ET.parse(sys.argv[1]).getroot()
for element in page.iter():
    tag = element.tag.split("}")[-1]
    if tag in ("script", "link", "img", "iframe", "object", "image", "use"):
        problems.append(f"<{tag}> is not self-contained")
    for name, value in element.attrib.items():
        if name.startswith("on") or "url(" in value or "http" in value:
            problems.append(f"<{tag} {name}={value!r}> is not self-contained")
        if re.search(r"\b(nan|inf)\b", value.lower()) and name not in ("aria-label", "class"):
            problems.append(f"<{tag} {name}={value!r}> is not a number")
    if tag == "style" and ("url(" in element.text or "@import" in element.text):
        problems.append("style loads something")
    if tag == "svg" and element.get("class") != "swatch":
        box = [float(v) for v in element.get("viewBox").split()]
        if not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
            problems.append(f"viewBox {box}")
        check_shapes(element, box)
for problem in problems:
    print(problem)
sys.exit(1 if problems else 0)
