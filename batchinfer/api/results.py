"""The predictions of a job: which parts hold them, and these as a polars LazyFrame or an Arrow dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchinfer.api.predictions import in_input_order
from batchinfer.ledger import manifests, parts
from batchinfer.ledger.parts import Part
from batchinfer.plan.generation import Generation
from batchinfer.report.standing import standing_parts
from batchinfer.storage.paths import JobPaths
from batchinfer.storage.store import StorageOptions, Store, is_local, options_for

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Results:
    """The parts that hold a job's predictions as they stand now."""

    store: Store
    options: StorageOptions
    paths: tuple[str, ...]
    """Of the parts, below the output, in the order of their shards: that of the input, those of retries last."""
    parts: tuple[Part, ...] | None
    """The same parts; None before the first generation has ended, as it would cost reading them."""
    generations: tuple[Generation, ...]
    """That planned them; empty where that is one."""

    @classmethod
    def find(cls, store: Store, options: StorageOptions, job: JobPaths) -> Results:
        """Those of a job; while a run goes on, the parts so far. While it is an extension, what was before counts as a whole."""
        manifest = manifests.latest(store, job)
        if manifest is None:
            names = [job.part(number) for number in sorted(parts.list_shards(store, job))]
            return cls(store, options, tuple(names), None, ())
        known, standing = standing_parts(store, job)
        return cls(store, options, tuple(part.path for part in standing), standing, known if len(known) > 1 else ())

    def frame(self) -> pl.LazyFrame:
        """In input order, retried rows at their places."""
        import polars as pl

        if self.parts is not None and self.generations:
            return in_input_order(self.store, self.parts, self.generations, self._scan)
        return self._scan(self.paths) if self.paths else pl.LazyFrame()

    def dataset(self) -> Any:
        """A pyarrow.dataset.Dataset in the order of `paths`. Raises OutputError where a part is gone or damaged."""
        import pyarrow.dataset as ds

        if not self.paths:
            return ds.dataset(pa.table({}))
        return self._dataset(self.paths, self._schema())

    def _schema(self) -> pa.Schema | None:
        """That of all parts; None where it is that of the first: types are pinned for a generation, and only a later one may know more."""
        if self.parts is None or not self.generations:
            return None
        numbered = {part.shard: part for part in self.parts}
        first = [next((numbered[s.number] for s in g.shards if s.number in numbered), None) for g in self.generations]
        schemas = [parts.schema(self.store, part) for part in first if part is not None]
        return pa.unify_schemas(schemas, promote_options="permissive")

    def _scan(self, below: Sequence[str]) -> pl.LazyFrame:
        import polars as pl

        if is_local(self.store.root):
            return pl.scan_parquet([f"{self.store.root}/{path}" for path in below], glob=False)
        return pl.scan_pyarrow_dataset(self._dataset(below))

    def _dataset(self, below: Sequence[str], schema: pa.Schema | None = None) -> Any:
        import pyarrow.dataset as ds

        root = self.store.root
        if is_local(root):
            from pyarrow.fs import LocalFileSystem

            fs: Any = LocalFileSystem()
            names = [f"{root}/{path}" for path in below]
        else:
            import fsspec

            fs, _ = fsspec.url_to_fs(root, **options_for(root, self.options))
            names = [fs._strip_protocol(f"{root}/{path}") for path in below]
        return ds.dataset(names, schema=schema, filesystem=fs, format="parquet")
