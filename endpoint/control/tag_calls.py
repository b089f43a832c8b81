"""AddTags, DeleteTags, ListTags, for everything that has an ARN here."""

from __future__ import annotations

from evenkeel.endpoint.control.control_settings import ControlSettings
from evenkeel.endpoint.control.journal_store import JournalStore
from evenkeel.endpoint.control.tags import tag_changes, tags_of
from evenkeel.endpoint.wire.api_errors import NO_RESOURCE, fail
from evenkeel.endpoint.wire.json_values import Values

TABLES = {
    "model": "models", "endpoint-config": "configs", "endpoint": "endpoints", "model-package-group": "package_groups",
    "model-package": "packages",
}  # by the kind in an ARN  # fmt: skip


class TagCalls:
    def __init__(self, settings: ControlSettings, store: JournalStore) -> None:
        self._settings, self._store = settings, store

    def add(self, params: Values) -> Values:
        arn = self._known(params["ResourceArn"])
        self._store.write(*tag_changes(self._store, arn, params["Tags"]))
        return {"Tags": tags_of(self._store, arn)}

    def delete(self, params: Values) -> Values:
        arn = self._known(params["ResourceArn"])
        self._store.write(*tag_changes(self._store, arn, (), params["TagKeys"]))
        return {}

    def listed(self, params: Values) -> Values:
        return {"Tags": tags_of(self._store, self._known(params["ResourceArn"]))}

    def _known(self, arn: str) -> str:
        """As we write it. Raises ApiError where it is nobody's."""
        kind = arn.rpartition(":")[2].partition("/")[0]
        for name in self._store.rows(TABLES.get(kind, "")):
            known = name if kind == "model-package" else self._settings.arn(kind, name)
            if known == arn.lower():
                return known
        raise fail(NO_RESOURCE, arn=arn)
