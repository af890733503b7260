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


def _at_home(host: str) -> str:
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


Host = Annotated[str, AfterValidator(lambda host: host.strip("[]"))]  # brackets are for URLs
Folder = Annotated[Path, AfterValidator(_folder)]
AdminHost = Annotated[Host, AfterValidator(_at_home)]
Plan = Annotated[str, AfterValidator(_as_plan)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]  # at most a day: longer timers may overflow


class Settings(Record):
    """The validated settings of one server."""

    registry: Folder
    state: Folder | None = None  # jobs and caches; None: no training
    data_roots: tuple[Folder, ...] = ()

    host: Host = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)  # 0: any free one, for all three
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    admin_host: AdminHost = "127.0.0.1"
    admin_port: int = Field(default=8003, ge=0, le=65535)
    ports_file: Path | None = None
    reflection: bool = True

    provider: Literal["auto"] | ActiveProvider = "auto"
    precision: Literal["auto"] | Precision = "fp32"  # the one that was evaluated
    gpu_memory_mb: int | None = Field(default=None, ge=1)  # per network; None: no limit
    plan: Plan | None = None  # None: measured
    max_batch: int | None = Field(default=None, ge=1, le=1024)  # of a measured plan
    pinned_versions: int = Field(default=2, ge=1)  # of a model, requested by number
    poll_seconds: Seconds = Field(default=1, gt=0)

    drain_seconds: Seconds = 5
    grace_seconds: Seconds = 20
    max_connection_age_seconds: Seconds = 1800  # 0: unlimited

    max_message_mb: int = Field(default=64, ge=1, le=2047)
    max_images: int = Field(default=128, ge=1, le=10_000)  # fewer than `wire.MAX_FIELDS`
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)
    max_queue: int = Field(default=1024, ge=1)  # views, per loaded version
    max_queue_mb: int = Field(default=512, ge=1)  # of images as received, per loaded version
    max_queue_seconds: float = Field(default=5, gt=0)  # expected wait
    max_model_requests: int = Field(default=0, ge=0)  # per loaded version; 0: no limit
    max_wait_ms: float = Field(default=0, ge=0, le=1000)  # for others to fill a batch
    cache_entries: int = Field(default=0, ge=0)  # 0: off
    max_rpcs: int = Field(default=1024, ge=1)

    slo_seconds: float = Field(default=0.25, gt=0)  # a bucket boundary of latency histograms
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://\S+$")  # None: no traces
    trace_ratio: float = Field(default=1, ge=0, le=1)

    trainer_command: tuple[str, ...] = ()  # empty: this Python, `-m training`
    cancel_seconds: Seconds = 10
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


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
