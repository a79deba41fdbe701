#!/usr/bin/env bash
# Hydra: the same text is another value in a config file than on the command line, and neither says so.
#
# Versions: hydra-core 1.3.8, omegaconf 2.3.1, PyYAML 6.0.3.
# Guess before running: OmegaConf widened YAML's rules (1e-3 is a number in a file) so that a setting that is moved
#   from the command line into an experiment file keeps its type; the known exceptions are yes/no/on/off.
# Behaviour: numbers and durations differ, too.
#   -.5 is text in a file (while .5 and -0.5 are numbers) and a number on the command line: `mean: [-.5]` is a string.
#   inf and nan are text in a file and numbers on the command line; .inf and .nan are the reverse.
#   12:00:00:00, the DD:HH:MM:SS that pytorch-lightning documents for `max_time`, is 2,592,000 in a file: digits in
#   base 60, which read as seconds are thirty days instead of twelve; on the command line it stays text.
#   00:12:00:00 is text in both, so that whether quotes are needed depends on the first digit.
#   010 is 8 in a file and text on the command line; 1e5_0 is text in a file and 1e+50 on the command line.
# Source: https://hydra.cc/docs/advanced/override_grammar/basic/, https://omegaconf.readthedocs.io,
#   https://yaml.org/type/float.html (PyYAML's rule for floats has no sign before a leading dot)
# Output seen:
#   -.5          file '-.5'          command line -0.5
#   .5           file 0.5            command line 0.5
#   inf          file 'inf'          command line inf
#   12:00:00:00  file 2592000        command line '12:00:00:00'
#   00:12:00:00  file '00:12:00:00'  command line '00:12:00:00'
#   010          file 8              command line '010'
#   1e5_0        file '1e5_0'        command line 1e+50
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uv
"$folder/venv/bin/uv" pip install --quiet --python "$folder/venv/bin/python" \
  hydra-core==1.3.8 omegaconf==2.3.1 PyYAML==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

seen = {
    "-.5": ("-.5", -0.5),
    ".5": (0.5, 0.5),
    "inf": ("inf", float("inf")),
    "12:00:00:00": (2_592_000, "12:00:00:00"),
    "00:12:00:00": ("00:12:00:00", "00:12:00:00"),
    "010": (8, "010"),
    "1e5_0": ("1e5_0", 1e50),
}
parser = OverridesParser.create()
for text, expected in seen.items():
    file = OmegaConf.create(f"value: {text}").value
    line = parser.parse_override(f"value={text}").value()
    print(f"{text:<12} file {file!r:<14} command line {line!r}")
    assert (file, line) == expected, f"behaviour changed for {text}"
    assert (type(file), type(line)) == (type(expected[0]), type(expected[1]))
PYTHON
echo "as described"
