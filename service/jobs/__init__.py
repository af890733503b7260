"""Training jobs: recorded, run in a process of their own, judged and published."""
