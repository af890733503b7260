"""Lets threads that wait for each other spin for a shorter time. Import it before `torch`.

The threads of an OpenMP loop spin until its slowest one is done: with GCC's library, which PyTorch
comes with on Linux, for milliseconds. That is right on idle cores. Beside other processes the
slowest thread waits for a core that a spinning one occupies: three epochs of a head, beside two
busy processes on two cores, took 11 to 14 s, and take 6 to 8 (three rounds each). On idle cores
10,000 turns cost nothing that shows, while not spinning at all took twice as long.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # a service's trainer is told not to spin
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
