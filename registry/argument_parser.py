"""Command-line arguments, with errors of one line."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from registry.did_you_mean import did_you_mean

END_OF_FLAGS = "--"
USAGE = 2  # the exit code


class ArgumentParser(argparse.ArgumentParser):
    """Reports a mistake without the list of all flags before it, and a misspelt flag with the
    nearest one, even if another flag is missing for that very reason."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        # where there are subcommands, a flag may be one of theirs, and they check it
        if self._subparsers is None:
            self._check_flags(given)
        parsed, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\nsee `{self.prog} --help`\n")

    def _check_flags(self, given: Sequence[str]) -> None:
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for argument in given:
            if argument == END_OF_FLAGS:
                return
            flag = argument.partition("=")[0]
            # argparse takes nothing that begins with two dashes for a value, but it completes flags
            if flag.startswith("--") and not any(one.startswith(flag) for one in known):
                self.error(f"there is no flag {flag}{did_you_mean(flag, known)}")
