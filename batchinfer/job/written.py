"""A job as it was written, with its `${…}` left in: what a job's record may hold, since no secret stands in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchinfer.job import credentials
from batchinfer.job.place import Place
from batchinfer.job.secrets import Secrets


@dataclass(frozen=True)
class Written:
    """Where a job came from. Equal to any other: jobs are compared by what they ask for."""

    document: Mapping[str, Any] = field(compare=False)
    """The values of the file, `--set` applied."""
    params: Mapping[str, str] = field(compare=False)
    """Those of `--param`."""
    folder: str = field(compare=False)
    """What relative paths are relative to."""
    secret: frozenset[Place] = field(default=frozenset(), compare=False)
    """Where a value, or a piece of it, is of the environment: it is never recorded, whatever its key is called."""
    secrets: Secrets = field(default=Secrets(), compare=False)

    def to_json(self) -> dict[str, Any] | None:
        """A value for the job's record; None where it holds a secret written out, as a class's option may be, or no JSON.

        Parameters with the name of a secret are left out: they must be given again.
        """
        if any(map(_is_secret, credentials.named_secrets(self._options()))):
            return None
        params = {name: value for name, value in self.params.items() if not credentials.is_secret_name(name)}
        value = {"document": dict(self.document), "params": params, "folder": self.folder}
        try:
            json.dumps(value)
        except (TypeError, ValueError):  # options given in Python can be anything
            return None
        return value

    def _options(self) -> list[Any]:
        """The sections whose keys are the user's own; in `storage` the loader refuses secrets."""
        model, steps = self.document.get("model"), self.document.get("steps")
        models = [model, *(steps if isinstance(steps, list) else [])]
        options = [m.get("options") for m in models if isinstance(m, dict)]
        return [*options, self.document.get("params"), self.document.get("metadata")]


def _is_secret(value: object) -> bool:
    """Whether a value under the name of a secret is one: a text in which nothing is filled in."""
    return isinstance(value, str) and re.search(r"\$\{", value) is None
