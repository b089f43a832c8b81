"""The command line: which verbs there are, how a line of words becomes a call, and how its errors are told.

Each verb is a function in a file of its own; its docstring is its help.
"""

from __future__ import annotations

import errno
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from cyclopts import App, CycloptsError, UnusedCliTokensError
from rich.console import Console

from evenkeel import __version__
from evenkeel.container.commands import (
    check_command,
    drain_command,
    endpoint_command,
    judge_command,
    pack_command,
    serve_options,
    standard_streams,
    status_command,
    use_command,
)
from evenkeel.container.commands.sidecar_client import CommandFailed
from evenkeel.serve.contract import logline
from evenkeel.serve.errors import BadModel, BadSetting

FAILED, WRONG_USE = 1, 2
VERBS: dict[str, Callable[..., int]] = {
    "serve": serve_options.serve, "check": check_command.check, "pack": pack_command.pack, "status": status_command.status,
    "use": use_command.use, "drain": drain_command.drain, "judge": judge_command.judge,
    "endpoint": endpoint_command.endpoint,
}  # fmt: skip
HELP = "Serve a model of yours over HTTP, on a laptop or in a container."
EXAMPLES = """Examples:

    evenkeel serve my-model        serve it, and say how to ask it
    evenkeel serve --help          what else can be said; so for every command

`evenkeel serve` alone, as containers are started, takes everything from variables."""


def build() -> App:
    app = App(name="evenkeel", version=f"evenkeel {__version__}", version_flags="--version", result_action="return_value",
              help_format="plaintext", help=HELP, help_epilogue=EXAMPLES)  # fmt: skip
    for verb, function in VERBS.items():
        what, example, rest = (inspect.getdoc(function) or "").partition("Example")
        flags = () if verb in ("judge", "endpoint") else ("--help", "-h")  # these two have better ones of their own
        app.command(function, name=verb, help=what, help_epilogue=unwrapped(example + rest), help_flags=flags)
    return app


def unwrapped(text: str) -> str:
    """Lines of a paragraph as one, for a terminal of any width; what is indented stays."""
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code. What a person did wrong is told in a line, or in a table below it; never by a traceback."""
    standard_streams.make_writable()
    app = build()
    if not words:
        app.help_print([], console=Console(stderr=True))
        return WRONG_USE
    try:
        command, bound, ignored = app.parse_args(list(words), exit_on_error=False, print_error=False)
        if "environ" in ignored:
            bound.arguments["environ"] = environ
        return command(*bound.args, **bound.kwargs) or 0
    except CycloptsError as e:
        verb = words[0] if words[0] in VERBS else ""
        tell(f"{what_is_wrong(e, verb)}; see {' '.join(filter(None, ('evenkeel', verb, '--help')))}")
        return WRONG_USE
    except (CommandFailed, BadModel, BadSetting) as e:
        tell(getattr(e, "message", str(e)))
        return FAILED
    except BrokenPipeError:
        standard_streams.leave_unread()
        return FAILED
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        standard_streams.leave_unread()
        tell(e.strerror or str(e))
        return FAILED


def what_is_wrong(e: CycloptsError, verb: str) -> str:
    if isinstance(e, UnusedCliTokensError):
        return f"evenkeel {verb} takes no such word as {(e.unused_tokens or [''])[0]!r}"
    return str(e).rstrip(".")


def tell(message: str) -> None:
    """What is in it came from anybody: no control character goes to the terminal."""
    print(logline.safe(f"evenkeel: {message}"), file=sys.stderr)
