"""The `peak` command: finds the command, imports its module, hands it the arguments. No mathematics here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from peak_nerf import __version__
from peak_nerf.errors import PeakError, exit_on_peak_error
from peak_nerf.system.choices import nearest
from peak_nerf.system.programs import INTERRUPTED


class Command(NamedTuple):
    """Where a command's function is; tyro makes its options from the signature, an int it returns is the exit code."""

    module: str
    function: str
    summary: str


# Modules are imported only when their command runs, so that `peak --help` stays instant.
COMMANDS = {
    "photos": Command("peak_nerf.photos.command", "photos_command", "from photos or a video to a scene for ns-train"),
    "inpaint": Command(
        "peak_nerf.tasks.inpainting.command", "inpaint_command", "reconstruct a picture from part of its pixels"
    ),
    "render-image": Command("peak_nerf.tasks.inpainting.command", "render_image", "render a fitted field at any size"),
    "phase": Command(
        "peak_nerf.tasks.phase_retrieval.command", "phase_command", "retrieve a picture from magnitudes alone"
    ),
    "kernel": Command(
        "peak_nerf.tasks.kernels.command", "kernel", "the kernels behind PEAK: Figure 2, spectra, encodings"
    ),
    "doctor": Command("peak_nerf.doctor", "doctor", "what this machine has, what is missing and how to mend it"),
    "bench": Command("peak_nerf.bench.command", "bench", "run a suite of configs/, keeping every finished cell"),
    "report": Command("peak_nerf.bench.report.command", "report", "the tables and plots of finished suites"),
}


def usage() -> str:
    """The text of `peak --help`."""
    lines = [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: peak [-h] [--version] COMMAND ...",
            "",
            "Implicit neural representations that generalise from few measurements.",
            "",
            "commands:",
            *lines,
            "",
            "`peak COMMAND --help` lists a command's options.",
            "Radiance fields are trained with `ns-train peak`.",
        ]
    )


def find_command(name: str) -> Command:
    """The command of that name. Raises: PeakError on one that we do not have, with the nearest that we do."""
    if name in COMMANDS:
        return COMMANDS[name]
    meant = nearest(name, COMMANDS)
    hint = "`peak --help` lists the commands" if meant is None else f"did you mean `peak {meant}`?"
    raise PeakError(f"unknown {'option' if name.startswith('-') else 'command'} {name!r}; {hint}")


def main(args: Sequence[str] | None = None) -> int:
    """Run `peak` with these arguments (by default the process's own); returns the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    if not args:
        print(usage(), file=sys.stderr)
        return 2
    if args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"peak_nerf {__version__}")
        return 0
    with exit_on_peak_error():
        command = find_command(args[0])
        try:
            import tyro

            function = getattr(import_module(command.module), command.function)
            if "torch" in sys.modules:
                from peak_nerf.system.waiting import sleep_when_busy

                sleep_when_busy()
            return tyro.cli(function, prog=f"peak {args[0]}", args=args[1:]) or 0
        except KeyboardInterrupt:
            print("peak_nerf: interrupted", file=sys.stderr, flush=True)
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
