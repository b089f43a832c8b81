"""The process tree as a black box: no walls around it, but it starts in half a second and needs no image."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.sagemaker.box import GRACE_S, Room, folder_of
from tests.support.tree import Tree, eventually, free_port

KILLED = 128 + signal.SIGKILL


class ProcessBox:
    kind = "process"
    host = "127.0.0.1"

    def __init__(self, model: str | Path, room: Room) -> None:
        self._folder, self._room = folder_of(model), room
        self.port = free_port()
        self._trees = [self._start({})]

    def _start(self, settings: dict[str, str]) -> Tree:
        tree = Tree(self._folder, **{"SAGEMAKER_BIND_TO_PORT": str(self.port), **self._room.settings, **settings})
        self.port = tree.port = int(tree.settings["SAGEMAKER_BIND_TO_PORT"])
        return tree

    @property
    def tree(self) -> Tree:
        return self._trees[-1]

    def log(self) -> list[dict[str, Any]]:
        return self.tree.log()

    def story(self) -> str:
        return self.tree.story()

    def exit_code(self) -> int | None:
        code = self.tree.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def stop(self) -> int:
        self.tree.tell(signal.SIGTERM)
        try:
            code = self.tree.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.tree.kill()
            return KILLED
        self.tree.assert_nothing_left()
        return code

    def kill(self) -> None:
        self.tree.tell(signal.SIGKILL)
        self.tree.process.wait()
        eventually(lambda: not self.tree.pids(), "the others have ended with the first process")

    def again(self) -> None:
        """With the same port and the same temporary folder: what the last one left there is in the way of this one."""
        self._trees.append(self._start({"SAGEMAKER_BIND_TO_PORT": str(self.port), "TMPDIR": self.tree.settings["TMPDIR"]}))

    def remove(self) -> None:
        for tree in self._trees:
            tree.kill()
