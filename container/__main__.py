"""The command line `evenkeel`. Each command is one file; nothing heavy is imported before it is known which."""

from __future__ import annotations

import os
import signal
import sys

# The kernel keeps from the first process of a container every signal that it has no handler for, so a stop that comes while it
# still imports would be lost, and the platform would wait 30 s. Before there is anything to finish, a stop ends it.
if os.getpid() == 1:
    for _early in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_early, lambda signum, frame: os._exit(128 + signum))

import argparse
from pathlib import Path

from evenkeel import __version__
from evenkeel.serve.contract import logline
from evenkeel.serve.contract.process_setup import begin_anywhere, keep_standard_descriptors
from evenkeel.serve.errors import BadModel, BadSetting


def main(argv: list[str] | None = None) -> int:
    begin_anywhere()
    keep_standard_descriptors()
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["judge"]:
        # Another part's command: started like every role, by command and never by import.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "evenkeel.sidecar.rollout.judge", *words[1:]])
    args = parser().parse_args(words)
    try:
        return run(args)
    except (BadModel, BadSetting) as e:
        tell_why(e.message, as_json=args.command == "serve" and not serve_writes_text())
        return 1


def tell_why(message: str, *, as_json: bool) -> None:
    """Why it ends, in one line, as the log has lines; on stderr, where errors of a command are looked for."""
    if as_json:
        logline.setup("evenkeel", text=False, fd=2)
        logline.log("cannot_start", message, level="error")
    else:
        logline.say(f"evenkeel: {message}")


def serve_writes_text() -> bool:
    from evenkeel.container.commands import serve_command

    return serve_command.writes_text(os.environ.get("EVENKEEL_LOG", "").strip() or "auto")


def run(args: argparse.Namespace) -> int:
    """The command's exit code. Each is imported only when it is the one."""
    match args.command:
        case "serve":
            from evenkeel.container.commands import serve_command

            return serve_command.run(os.environ)
        case "check":
            from evenkeel.container.commands import check_command

            return check_command.run(args.model_dir, os.environ)
        case "pack":
            from evenkeel.container.commands import pack_command

            return pack_command.run(args.model_dir, args.output)
        case "status":
            from evenkeel.container.commands import status_command

            return status_command.run(args.url, args.json, args.watch, os.environ)
        case "use":
            from evenkeel.container.commands import use_command

            return use_command.run(args.version, args.socket, args.url, not args.no_wait, os.environ)
        case _:
            from evenkeel.container.commands import drain_command

            return drain_command.run(args.socket, args.url, os.environ)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evenkeel", description="Serve a model; see docs/ for everything.")
    parser.add_argument("--version", action="version", version=f"evenkeel {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve the model in EVENKEEL_MODEL_DIR (the container's default)")
    check = commands.add_parser("check", help="load a model, run its samples, say whether it would serve")
    check.add_argument("model_dir", type=Path)
    pack = commands.add_parser("pack", help="make the model.tar.gz that SageMaker wants")
    pack.add_argument("model_dir", type=Path)
    pack.add_argument("-o", "--output", type=Path, default=Path("model.tar.gz"))
    status = commands.add_parser("status", help="what a running container says of itself; exit code 0 ready, 2 not, 1 no answer")
    status.add_argument("--url", help="the sidecar's address; without it EVENKEEL_SIDECAR_ADDRESS")
    status.add_argument("--json", action="store_true", help="everything, as the sidecar's /status")
    status.add_argument("--watch", action="store_true", help="again every second until Ctrl-C")
    drain = commands.add_parser("drain", help="ask a running container to finish what it has accepted and end")
    where = drain.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, help="admin.sock in its run directory; without it the one container that runs here")
    where.add_argument("--url", help="the sidecar's address; sends EVENKEEL_ADMIN_TOKEN")
    use = commands.add_parser("use", help="ask a running container to serve another version of its model, and wait for it")
    use.add_argument("version", help="as its folder is called, NAME/VERSION/; the version before stays warm for a while")
    where = use.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, help="admin.sock in its run directory; without it the one container that runs here")
    where.add_argument("--url", help="the sidecar's address; sends EVENKEEL_ADMIN_TOKEN")
    use.add_argument("--no-wait", action="store_true", help="return as soon as it is known what will be done")
    commands.add_parser("judge", help="compare a candidate with a baseline: promote, hold or roll back", add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
