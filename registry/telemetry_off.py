"""ONNX Runtime is told not to report to its maker. To be imported before `onnxruntime`.

From the moment of their import its wheels keep a database below `~/.cache/Microsoft` and, by the
strings in the library, upload it over HTTPS, unless this variable is set;
`disable_telemetry_events()` comes too late for the files.
This and `service.one_poller` are the imports of ours that do something.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
