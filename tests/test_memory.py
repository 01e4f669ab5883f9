"""Memory beyond inputs and outputs: a few numbers a row and one row a thread, never a second batch."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, fastsce

def status(key):
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(key))
    return int(line.split()[1]) * 1024

rows, classes = map(int, sys.argv[1:])
logits, out = np.ones((rows, classes), np.float32), np.ones((rows, classes), np.float32)
target = np.zeros(rows, np.int64)
fastsce.cross_entropy_value_and_grad(logits[:64], target[:64], out=out[:64])  # compiled, and its threads started
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
fastsce.cross_entropy_value_and_grad(logits, target, out=out)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's account of memory")
@pytest.mark.parametrize(("rows", "classes"), [(512, 131072), (4096, 8192), (16384, 1024), (65536, 10)])
def test_peak_memory(rows, classes):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(rows), str(classes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 20
