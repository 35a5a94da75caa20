"""Every day of reviews, scored: a DAG for Airflow 3. Retries of a task and clears resume, catch-up runs the days that were missed."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG

from batchinfer.airflow import job_group

JOBS = os.environ.get("BATCHINFER_JOBS", "/srv/jobs")

with DAG(
    "score_reviews",
    schedule="@daily",
    start_date=datetime(2026, 11, 1),  # noqa: DTZ001 - Airflow takes it for UTC
    catchup=True,
    max_active_runs=2,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
) as dag:
    job_group("score", job=f"{JOBS}/daily.yaml", job_params={"day": "{{ ds }}"})
