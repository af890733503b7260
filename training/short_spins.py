"""Lets threads that wait for each other spin for a shorter time. Import it before `torch`.

The threads of an OpenMP loop spin until its slowest one is done, in libgomp, which PyTorch comes
with on Linux, for 300,000 turns. That is right on idle cores. Beside other processes the slowest
thread waits for a core that a spinning one occupies: three epochs of a head, beside two busy
processes on two cores, took 11 to 14 s, and with 10,000 turns 6 to 8 (three rounds each). On idle
cores the two take the same time, and twice that without any spinning.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # a service's trainer is told not to spin
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
