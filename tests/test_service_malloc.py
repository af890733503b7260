"""Memory that a closed network leaves goes back to the system."""

import subprocess
import sys

from conftest import TESTS

# The last block keeps the heap from shrinking by itself, as a small allocation after a load does.
FREE_MUCH = """
from pathlib import Path
from service.execution.malloc import release_freed_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

blocks = [bytearray(100_000) for _ in range(1000)]
last = bytearray(100_000)
full = resident_mb()
del blocks
freed = resident_mb()
release_freed_memory()
print(full, freed, resident_mb())
"""


def test_what_was_freed_is_given_back() -> None:
    command = [sys.executable, "-c", FREE_MUCH]
    told = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    full, freed, given_back = map(int, told.stdout.split())
    assert full - freed < 20, "nothing is left to be given back"
    assert full - given_back > 80
