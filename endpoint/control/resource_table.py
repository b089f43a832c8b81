"""Resources that are kept as they were given: create, describe, delete, list. Models and endpoint configs are such."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.journal_store import Change, JournalStore, Row
from evenkeel.endpoint.control.tags import tag_changes
from evenkeel.endpoint.wire.api_errors import KnownError, fail


@dataclass(frozen=True, slots=True)
class ResourceTable:
    """`arn_kind` is how ARNs call it."""

    table: str
    arn_kind: str
    exists: KnownError
    missing: KnownError
    settings: ControlSettings
    store: JournalStore

    def arn(self, name: str) -> str:
        return self.settings.arn(self.arn_kind, name)

    def create(self, name: str, row: Row, tags: list[Row]) -> str:
        """The ARN. Raises ApiError where there is one of that name."""
        arn = self.arn(name)
        if self.store.get(self.table, name) is not None:
            raise fail(self.exists, arn=arn)
        self.store.write(Change(self.table, name, row), *tag_changes(self.store, arn, tags))
        return arn

    def get(self, name: str) -> Row:
        row = self.store.get(self.table, name)
        if row is None:
            raise fail(self.missing, arn=self.arn(name))
        return row

    def delete(self, name: str) -> None:
        self.get(name)
        self.store.write(Change(self.table, name, None), Change("tags", self.arn(name), None))
