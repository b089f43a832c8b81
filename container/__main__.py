"""The command line `evenkeel`. Each command is one file; nothing heavy is imported before it is known which."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from serve.errors import BadModel, BadSetting


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="evenkeel", description="Serve a model; see docs/ for everything.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve the model in EVENKEEL_MODEL_DIR (the container's default)")
    check = commands.add_parser("check", help="load a model, run its samples, say whether it would serve")
    check.add_argument("model_dir", type=Path)
    pack = commands.add_parser("pack", help="make the model.tar.gz that SageMaker wants")
    pack.add_argument("model_dir", type=Path)
    pack.add_argument("-o", "--output", type=Path, default=Path("model.tar.gz"))
    commands.add_parser("judge", help="compare a candidate with a baseline: promote, hold or roll back", add_help=False)
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["judge"]:
        # Another part's command: started like every role, by command and never by import.
        os.execv(sys.executable, [sys.executable, "-m", "sidecar.rollout.judge", *words[1:]])
    args = parser.parse_args(words)
    try:
        if args.command == "serve":
            from container import serve

            return serve.run(os.environ)
        if args.command == "check":
            from container import check as checks

            return checks.run(args.model_dir, os.environ)
        from container import pack as packs

        return packs.run(args.model_dir, args.output)
    except (BadModel, BadSetting) as e:
        print(f"evenkeel: {e.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
