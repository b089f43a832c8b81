"""`evenkeel serve`: environment -> plan -> sockets and page -> supervise. Leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from evenkeel.container import environment
from evenkeel.container.commands.start_progress import StartProgress
from evenkeel.container.commands.view_process import ViewProcess, show_card
from evenkeel.container.environment import Environment, Given
from evenkeel.container.plan import start_plan
from evenkeel.container.plan.start_plan import StartPlan
from evenkeel.container.supervise import listeners, many_models_tree, one_model_tree, start_page
from evenkeel.container.supervise.run_dir import RunDir
from evenkeel.serve.contract.library_lines import capture
from evenkeel.serve.contract.logline import log, say, setup, sink
from evenkeel.serve.errors import BadModel, BadSetting


def main(environ: Mapping[str, str], given: Mapping[str, Given] | None = None) -> int:
    """Serve until told to stop. Returns the exit code. `given`: options of the command line, by the variable each stands for."""
    try:
        return run(environ, given or {})
    except (BadModel, BadSetting) as e:
        chosen = given["EVENKEEL_LOG"].value if given and "EVENKEEL_LOG" in given else environ.get("EVENKEEL_LOG", "")
        tell_why(e.message, as_json=not writes_text(chosen.strip() or "auto"))
        return 1


def tell_why(message: str, *, as_json: bool) -> None:
    """Why it ends, in one line, as the log has lines; on stderr, where errors of a command are looked for."""
    if as_json:
        setup("evenkeel", text=False, fd=2)
        log("cannot_start", message, level="error")
    else:
        say(f"evenkeel: {message}")


def run(environ: Mapping[str, str], given: Mapping[str, Given]) -> int:
    """Raises BadSetting and BadModel."""
    env = environment.read(environ, given)
    view = ViewProcess(env.inherited) if env.settings.log == "auto" and os.isatty(1) else None
    setup("evenkeel", text=env.settings.log == "text", fd=view.fd if view else 1)
    try:
        capture()
        return serve(env, environ, is_viewed=view is not None)
    finally:
        if view is not None:
            setup("evenkeel", text=True)  # closes what led to the view
            view.end()


def serve(env: Environment, environ: Mapping[str, str], is_viewed: bool) -> int:
    """`is_viewed`: by a person at a terminal, on a machine of their own."""
    text, many = env.settings.log == "text", env.has_many_models
    if is_viewed and not many and not env.is_set("EVENKEEL_MODEL_DIR") and not env.model_dir.is_dir():
        raise BadModel(f"which model? `evenkeel serve FOLDER` serves the one in FOLDER; {env.model_dir}, where containers have "
                       "theirs, does not exist here")  # fmt: skip
    plan = start_plan.make_of_many(env, environ) if many else start_plan.make(env, environ)
    run_dir = RunDir(env.settings.run_dir)
    reserved = None
    try:
        data = listeners.listen(env.settings.host, env.settings.port, "EVENKEEL_HOST", "--port or SAGEMAKER_BIND_TO_PORT")
        listeners.warn_if_alone(data)
        side = listeners.listen_sidecar(env, data.getsockname()[1], or_next=is_viewed)
        reserved = listeners.reserve_grpc(env.sidecar[0], env.settings.grpc_health_port)
        page = start_page.new_page(plan.processes if isinstance(plan, StartPlan) else plan)
        if isinstance(plan, StartPlan):
            tree = one_model_tree.make(env, plan, page, run_dir, data, side, text)
        else:
            tree = many_models_tree.make(env, plan, page, run_dir, data, side, text)
        told = {"address": listeners.home_address(data), "run_dir": str(run_dir.path), "model_dir": str(tree.folder)}
        progress = StartProgress(page, tree.sidecar.record, told, steps=text or is_viewed,
                                 then=partial(show_card, env.inherited) if text and not many else None)  # fmt: skip

        def look() -> None:
            progress.look()
            tree.sidecar.mend_socket()
            sink().tell_lost()

        tree.supervisor.on_tick = look
        code = tree.supervisor.run()
        log("stopped", "every process has ended", code=code)
        return code
    finally:
        run_dir.remove()
        if reserved is not None:
            reserved.close()


def writes_text(log_setting: str) -> bool:
    """Whether why it ends is told in words for a person, and not as a line of JSON."""
    return log_setting == "text" or (log_setting != "json" and os.isatty(1))
