"""Turns ONNX Runtime's telemetry off. Import it before `onnxruntime`.

Unless this variable is set, its wheels keep a database below `~/.cache/Microsoft` from the moment
they are imported and, judging by the strings in the library, upload it over HTTPS;
`disable_telemetry_events()` comes too late to prevent the files.
Of our modules, only this one, `service.one_poller` and `training.short_spins` have side effects on
import.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
