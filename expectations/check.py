"""The expectation behind every check of Lockstep's own: one statement, so one snapshot, that counts what fails.

Importing this module imports Great Expectations, which takes seconds: only a running gate does.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import psycopg
from great_expectations.core import ExpectationValidationResult
from great_expectations.execution_engine import ExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.render.components import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer
from sqlalchemy.exc import DBAPIError

from expectations.judgement import FOUND_KEY
from expectations.session import condition
from tasks.planning.errors import CannotConnect

METRIC = "lockstep.check"
EXPECTATION = "expect_check_to_hold"


class CheckMetric(TableMetricProvider):
    """Runs a check's statement and returns what it found, see `_found`."""

    metric_name = METRIC
    value_keys = ("sql",)

    @metric_value(engine=SqlAlchemyExecutionEngine)
    def _sqlalchemy(
        cls,  # noqa: N805  Great Expectations makes it a class method
        execution_engine: SqlAlchemyExecutionEngine,
        metric_domain_kwargs: dict[str, Any],  # noqa: ARG002
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],  # noqa: ARG002
        runtime_configuration: dict[str, Any],  # noqa: ARG002
    ) -> dict[str, Any]:
        # Caught here because Great Expectations would run a failed metric three times.
        try:
            with execution_engine.get_connection() as connection:
                # Driver-level and without parameters: neither ':' nor '%' of the text means anything.
                rows = connection.exec_driver_sql(
                    metric_value_kwargs["sql"], execution_options={"no_parameters": True}
                ).fetchall()
        except DBAPIError as error:
            origin = error.orig
            name = condition(origin) if isinstance(origin, psycopg.Error) else type(origin).__name__
            return {"error": name, "lost": error.connection_invalidated}
        except CannotConnect:
            return {"error": "the server does not answer", "lost": True}
        return _found([tuple(row) for row in rows])


class ExpectCheckToHold(BatchExpectation):
    """Expect the check of the gate to find nothing that fails."""

    check: str
    title: str
    sql: str

    metric_dependencies: ClassVar[tuple[str, ...]] = (METRIC,)
    success_keys: ClassVar[tuple[str, ...]] = ("sql",)

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002
        execution_engine: ExecutionEngine[Any] | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        found = metrics[METRIC]
        return {"success": "error" not in found and found["failing"] == 0, "result": {FOUND_KEY: found}}

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    def _prescriptive_renderer(
        cls,
        configuration: ExpectationConfiguration | None = None,
        result: ExpectationValidationResult | None = None,
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG003
    ) -> list[RenderedStringTemplateContent]:
        """Show the check's title in Data Docs: the statement would bury the page."""
        shown = configuration or (result.expectation_config if result is not None else None)
        title = shown.kwargs.get("title", "") if shown is not None else ""
        content = {"template": "$title", "params": {"title": title}}
        return [RenderedStringTemplateContent(content_block_type="string_template", string_template=content)]


def _found(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return ``failing, evaluated, sample, observed`` of a check's only row, or ``error`` if it is anything else."""
    if len(rows) != 1 or len(rows[0]) != 4:
        return {"error": f"a check returns one row of four columns, this one {len(rows)} rows"}
    failing, evaluated, sample, observed = rows[0]
    if not (isinstance(failing, int) and isinstance(evaluated, int) and failing >= 0 and evaluated >= 0):
        return {"error": "a check returns two counts, this one does not"}
    keys, numbers = _json(sample), _json(observed)
    if not (isinstance(keys, list) and isinstance(numbers, dict)):
        return {"error": "a check returns its sample as an array and its numbers as an object, this one does not"}
    return {
        "failing": failing,
        "evaluated": evaluated,
        "sample": [str(key) for key in keys],
        "observed": {str(name): str(value) for name, value in numbers.items()},
    }


def _json(value: object) -> object:
    return json.loads(value) if isinstance(value, str | bytes) else value
