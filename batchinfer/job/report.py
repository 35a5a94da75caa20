"""Who else is told of a run, beside `run_results.json`. Nothing of it changes a result, nor which job it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from batchinfer.job.scalar import Scalar
from batchinfer.job.values import Duration, Model, Switch, Text


class OpenLineage(Model):
    """Where OpenLineage events go, and how they name the job. What isn't given is as OpenLineage's own variables and file have it."""

    url: Annotated[Text | None, Field(description="of the receiver; default: OPENLINEAGE_URL", repr=False)] = None
    transport: Annotated[
        dict[str, Any] | None,
        Field(
            description="in place of url, as the OpenLineage client takes it, such as {type: kafka, …}; secrets only by ${VAR}",
            repr=False,
        ),
    ] = None
    namespace: Annotated[Text | None, Field(description="of the job; default: OPENLINEAGE_NAMESPACE, else default")] = (
        None
    )
    job: Annotated[Text | None, Field(description="what the job is called there; default: its name")] = None
    timeout: Annotated[Duration, Field(description="that the end of a run waits at most for events to arrive")] = 5.0

    @model_validator(mode="after")
    def _one_way(self) -> OpenLineage:
        if self.url is not None and self.transport is not None:
            raise ValueError("give url or transport, not both")
        if self.transport is not None and not isinstance(self.transport.get("type"), str):
            raise ValueError("transport needs a type, such as http, kafka or file")
        return self


class MlflowRun(Model):
    """The run of MLflow's that a run is logged as. What isn't given is as MLflow's own variables have it."""

    tracking_uri: Annotated[
        Text | None,
        Field(description="default: MLFLOW_TRACKING_URI; passwords by MLFLOW_TRACKING_PASSWORD", repr=False),
    ] = None
    experiment: Annotated[
        Text | None,
        Field(description="made where there is none; default: MLFLOW_EXPERIMENT_NAME or _ID, else MLflow's own"),
    ] = None
    run_name: Annotated[Text | None, Field(description="default: the job's name")] = None
    tags: Annotated[dict[str, Scalar], Field(description="of the run")] = Field(default_factory=dict)
    timeout: Annotated[Duration, Field(description="that the end of a run waits at most for the last of it")] = 10.0


class Report(Model):
    """What is told of a run, and to whom."""

    html: Annotated[Switch, Field(description="write report.html beside run_results.json")] = True
    openlineage: Annotated[
        Literal["auto", "off"] | OpenLineage,
        Field(description="OpenLineage events; auto: where OpenLineage's own variables or file say where they go"),
    ] = "auto"
    mlflow: Annotated[
        Literal["off"] | MlflowRun, Field(description="log each run to MLflow; {}: as its variables have it")
    ] = "off"
