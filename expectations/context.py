"""One gate's Great Expectations: a context in memory, a data source without a password, and its Data Docs.

Imports Great Expectations. Nothing is written but the Data Docs, and those only from results that
`expectations.judgement` has stripped of everything but counts and keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent import PostgresDatasource
from psycopg import sql

from tasks.planning.names import TableName

RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0, "include_unexpected_rows": False}
"""Counts, without a list of the values that failed."""

TUTORIAL_PICTURES = ("glossary_scroller.gif", "iterative-dev-loop.png", "validation_failed_unexpected_values.gif")
"""Copied into every site, shown on none of these pages, and most of its size."""

SITE = "gate"

# The creator connects; this only says which dialect and driver to use.
DIALECT_URL = "postgresql+psycopg://gate@target/database"


def new_context(docs: Path) -> AbstractDataContext:
    """Return a context whose only site of Data Docs is the folder ``docs``; it calls nobody."""
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
            data_docs_sites={
                SITE: {
                    "class_name": "SiteBuilder",
                    "show_how_to_buttons": False,
                    "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
                    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                }
            },
        ),
    )


@contextmanager
def data_source(context: AbstractDataContext, connect: Callable[[], Any]) -> Iterator[PostgresDatasource]:
    """Yield the data source whose connections come from ``connect``; afterwards none of them is left open.

    No password is in its configuration, hence none in its repr, in a log or in the Data Docs.
    """
    source = context.data_sources.add_postgres(  # type: ignore[call-arg]  # the generated stub leaves out kwargs
        name="target",
        connection_string=DIALECT_URL,
        kwargs={"creator": connect, "hide_parameters": True, "pool_size": 1, "max_overflow": 1},
    )
    try:
        yield source
    finally:
        source.get_engine().dispose()
        source.get_execution_engine().close()


def all_checks(source: PostgresDatasource) -> BatchDefinition[Any]:
    """Return the batch that Lockstep's checks run on: they name their tables themselves, so it is an empty form."""
    return source.add_query_asset(name="checks", query="SELECT 1 AS gate").add_batch_definition_whole_table("now")


def whole_table(source: PostgresDatasource, table: TableName, name: str) -> BatchDefinition[Any]:
    """Return the batch of a user's suite: the table as it is.

    A query, because a table asset folds names to lower case and its schema is deprecated.
    """
    query = sql.SQL("SELECT * FROM {}").format(table.identifier).as_string(None)
    return source.add_query_asset(name=name, query=query).add_batch_definition_whole_table("now")


def validate(
    context: AbstractDataContext, batch: BatchDefinition[Any], suite: gx.ExpectationSuite, run: RunIdentifier
) -> ExpectationSuiteValidationResult:
    """Run a suite on a batch; the result stays in memory until `write_docs` strips it."""
    definition = gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(suite))
    return context.validation_definitions.add(definition).run(result_format=RESULT_FORMAT, run_id=run)


def write_docs(
    context: AbstractDataContext, folder: Path, strip: Callable[[ExpectationSuiteValidationResult], None]
) -> Path:
    """Strip every result there is, build the Data Docs from them and return the path of their first page."""
    store = context.validation_results_store
    for key in store.list_keys():
        result: Any = store.get(key)
        strip(result)
        store.set(key, result)
    context.build_data_docs()
    for picture in TUTORIAL_PICTURES:
        (folder / "static" / "images" / picture).unlink(missing_ok=True)
    return folder / "index.html"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Great Expectations' loggers meanwhile: their messages may quote what they choke on."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
