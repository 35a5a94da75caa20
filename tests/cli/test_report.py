"""`batchinfer report`, as a user calls it."""

from __future__ import annotations

import json


def test_the_page_is_drawn_anew_beside_a_reference_and_elsewhere(workplace):
    workplace.write_job(rows=60)
    ran = workplace.batchinfer("run", "job.yaml", "--set", "report.html=false")
    assert ran.returncode == 0
    assert "report.html" not in ran.stdout
    assert list(workplace.output.glob("_batchinfer/*/report.html")) == []
    done = workplace.batchinfer("report", "job.yaml")
    assert done.returncode == 0
    (page,) = workplace.output.glob("_batchinfer/*/report.html")
    assert done.stdout == f"{page}\n"
    assert "60 succeeded" in page.read_text()
    assert workplace.batchinfer("drift", "out", "--save", "june.json").returncode == 0
    done = workplace.batchinfer("report", "out", "--reference", "june.json", "--to", "beside.html", "--json")
    assert json.loads(done.stdout) == {"report": "beside.html"}
    assert 'var(--two)"></span>june.json' in (workplace.folder / "beside.html").read_text()
    assert 'var(--two)"></span>' not in page.read_text()


def test_a_run_says_where_its_page_is(workplace):
    workplace.write_job(rows=20)
    ran = workplace.batchinfer("run", "job.yaml")
    (page,) = workplace.output.glob("_batchinfer/*/report.html")
    assert f"report       {page}" in ran.stdout
    again = workplace.batchinfer("run", "job.yaml")  # leaves none
    assert "report  " not in again.stdout


def test_what_can_not_be_reported_is_refused(workplace):
    assert workplace.batchinfer("report", "nowhere").returncode == 2
    workplace.write_job(rows=20)
    assert workplace.batchinfer("run", "job.yaml").returncode == 0
    done = workplace.batchinfer("report", "out", "--to", "no/such/folder.html")
    assert done.returncode == 2
    assert "--to no/such/folder.html" in done.stderr
    assert workplace.batchinfer("report", "out", "--reference", "gone.json").returncode == 2
