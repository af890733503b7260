"""A server's settings, from flags and environment variables; only this file reads the environment.

Every field has a variable: `drain_seconds` is UNFREEZE_DRAIN_SECONDS. A flag takes precedence.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from registry.bundle import Precision
from registry.did_you_mean import did_you_mean
from registry.errors import BadRequest
from registry.files import MOUNT, is_url
from registry.images import MAX_PIXELS
from registry.record import Record, explain
from service.execution.providers import ActiveProvider

PREFIX = "UNFREEZE_"
MIN_AGE_S = 0.1  # clients of younger connections would hardly do more than connect
OF_CLIENTS = ("address", "admin_address", "ca")  # variables that `unfreeze predict` and others read


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _folder(path: Path) -> Path:
    if is_url(path):
        raise ValueError(f"this is a URL; {MOUNT}")
    if os.path.isfile(path):
        raise ValueError("this is a file; it must be a folder")
    return path


def _loopback_only(host: str) -> str:
    if not _is_loopback(host):
        raise ValueError(
            f"{host} can be reached from other machines, and the admin API has no authentication; "
            "use 127.0.0.1 and forward the port"
        )
    return host


def _as_plan(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}x[1-9]\d{0,3}", text, re.ASCII):
        raise ValueError("write it as THREADSxRUNSxBATCH, such as 1x2x1")
    return text


def _age(seconds: float) -> float:
    if 0 < seconds < MIN_AGE_S:
        raise ValueError(f"it must be 0, which means never, or at least {MIN_AGE_S}")
    return seconds


# A type's or a field's title stands for the value in the help.
Host = Annotated[
    str,
    AfterValidator(lambda host: host.strip("[]")),  # brackets are for URLs
    Field(title="HOST"),
]
AdminHost = Annotated[Host, AfterValidator(_loopback_only)]
Port = Annotated[int, Field(ge=0, le=65535, title="PORT")]  # 0: any free one
Folder = Annotated[Path, AfterValidator(_folder)]
Plan = Annotated[str, AfterValidator(_as_plan)]
Seconds = Annotated[float, Field(ge=0, le=86_400, title="S")]  # at most a day: timers may overflow


class Settings(Record):
    """The validated settings of one server. Each that has a description is a flag with this help
    (service/flags.py), which also shows the default unless that is None."""

    registry: Folder = Field(title="PATH", description="the model registry, a folder (required)")
    state: Folder | None = Field(
        default=None,
        title="PATH",
        description="folder for training jobs and caches; enables training",
    )
    data_roots: tuple[Folder, ...] = Field(
        default=(),
        title="PATH",
        description="existing folder that training jobs may read data from; may be repeated",
    )

    host: Host = Field(
        default="127.0.0.1", description="address to serve predictions and metrics on"
    )
    port: Port = Field(default=8001, description="port for predictions; 0: any free one")
    metrics_port: Port = Field(default=8002, description="port for /metrics")
    admin_host: AdminHost = Field(
        default="127.0.0.1", description="address of the admin listener; loopback only"
    )
    admin_port: Port = Field(default=8003, description="port of the admin listener")
    ports_file: Path | None = Field(
        default=None, title="PATH", description="write the actual ports here, as JSON, once ready"
    )
    reflection: bool = Field(default=True, description="turn gRPC server reflection off")

    provider: Literal["auto", ActiveProvider] = Field(
        default="auto",
        description="ONNX Runtime execution provider; if it cannot be initialised, the server does "
        "not start",
    )
    precision: Literal["auto", Precision] = Field(
        default="fp32",  # the one that was evaluated
        description="which of a version's models to run; auto: int8 on a CPU and fp16 on a GPU "
        "where a version has them: usually faster, at most half a point less accurate when they "
        "were exported; individual probabilities differ",
    )
    gpu_memory_mb: int | None = Field(
        default=None, ge=1, description="GPU memory limit per loaded model (none)"
    )
    plan: Plan | None = Field(
        default=None,
        title="THREADSxRUNSxBATCH",
        description="execution plan: threads per run, concurrent runs, images per run (measured)",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="largest batch that a measured plan may use (8 on a CPU, 32 on a GPU)",
    )
    pinned_versions: int = Field(
        default=2,
        ge=1,
        description="most versions of a model kept in memory only because they were requested by "
        "number; the least recently used one makes room",
    )
    poll_seconds: Seconds = Field(default=1, gt=0, description="how often to poll the registry")

    drain_seconds: Seconds = Field(default=5, description="how long to keep serving after SIGTERM")
    grace_seconds: Seconds = Field(
        default=20, description="how long requests in flight may still take after that"
    )
    max_connection_age_seconds: Annotated[Seconds, AfterValidator(_age)] = Field(
        default=1800, description="make clients reconnect after this time; 0: never"
    )

    max_message_mb: int = Field(
        default=64, ge=1, le=2047, description="largest request, in megabytes"
    )
    max_images: int = Field(
        default=128,
        ge=1,
        le=10_000,  # fewer than `message_limits.MAX_FIELDS`
        description="most images in a request",
    )
    max_pixels: int = Field(
        default=MAX_PIXELS,
        ge=1,
        description="most pixels in an image; in a WebP, a quarter of that",
    )
    max_queue: int = Field(
        default=1024,
        ge=1,
        description="most views queued or running per loaded version; without test-time "
        "augmentation, one per image",
    )
    max_queue_mb: int = Field(
        default=512,
        ge=1,
        description="most megabytes of images queued or running per loaded version",
    )
    max_queue_seconds: Seconds = Field(
        default=5,
        gt=0,
        description="expected queueing time above which requests are refused",
    )
    max_model_requests: int = Field(
        default=0, ge=0, description="most requests in flight per loaded version; 0: no limit"
    )
    max_wait_ms: float = Field(
        default=0,
        ge=0,
        le=1000,
        title="MS",
        description="how long an image may wait to fill a batch; less with a timeout or deadline "
        "that would pass",
    )
    cache_entries: int = Field(
        default=0, ge=0, description="size of the cache of answers, keyed by image content; 0: off"
    )
    max_rpcs: int = Field(
        default=1024,
        ge=1,
        description="most RPCs in flight, separately for predictions, administration, and "
        "streams of health and reflection",
    )

    slo_seconds: Seconds = Field(
        default=0.25,
        gt=0,
        description="latency objective; becomes a bucket boundary of the latency histograms",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        title="URL",
        description="trace collector, such as http://host:4317",
    )
    trace_ratio: float = Field(
        default=1,
        ge=0,
        le=1,
        title="R",
        description="sampling ratio of traces that start at this server",
    )

    trainer_command: tuple[str, ...] = ()  # empty: this Python, `-m training`
    cancel_seconds: Seconds = Field(
        default=10, description="how long a cancelled job may take to exit before it is killed"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="lowest level that is logged"
    )


def read_settings(flags: Mapping[str, object]) -> Settings:
    """The settings: flags that were given (not None) before the environment, before defaults.

    Raises:
        BadRequest: some are invalid; it names each of them.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    found = _environment(os.environ) | given
    if "registry" not in found:
        raise BadRequest("no registry given; use --registry PATH or set UNFREEZE_REGISTRY")
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        raise BadRequest(explain(error)) from error


def _environment(variables: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in Settings.model_fields:
        text = variables.get(_variable(name), "")
        match name:
            case _ if not text:
                continue
            case "data_roots":
                found[name] = tuple(text.split(os.pathsep))
            case "trainer_command":
                found[name] = tuple(shlex.split(text))
            case _:
                found[name] = text
    return found


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def misspelt(variables: Iterable[str]) -> list[str]:
    """A warning for each variable that has our prefix but sets nothing.

    Not an error: Kubernetes sets such variables for a Service named unfreeze.
    """
    known = {*Settings.model_fields, *OF_CLIENTS}
    given = {name: name.removeprefix(PREFIX).lower() for name in sorted(variables)}
    return [
        f"{variable} sets nothing{did_you_mean(name, known, _variable)}"
        for variable, name in given.items()
        if variable.startswith(PREFIX) and name not in known
    ]
