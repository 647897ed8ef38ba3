"""What the doctor says of the workers' jobs, and what Prometheus gets."""

from typing import Any

from psycopg import AsyncConnection

from flux.api.metrics import metrics_text
from flux.local.doctor import Grade, check_jobs

JOBS = """INSERT INTO flux.worker_jobs (name, every_s, succeeded_at, failed_at, failure) VALUES
    ('market axle WLCE', 60, now() - interval '2 minutes', now(), 'axle: a schedule without steps'),
    ('market elexon', 300, now() - interval '4 minutes', NULL, NULL),
    ('market modo', 60, now() - interval '6 minutes', NULL, NULL),
    ('market new', 60, NULL, now(), 'away')"""


async def test_jobs_that_fail_or_are_not_done_are_told(db: AsyncConnection[Any]) -> None:
    await db.execute(JOBS)
    found = await check_jobs(db)
    assert [(one.check, one.grade) for one in found] == [
        ("job market axle WLCE", Grade.WARNING),
        ("job market elexon", Grade.OK),
        ("job market modo", Grade.WARNING),
        ("job market new", Grade.WARNING),
    ]
    assert found[0].message == "last succeeded 120 s ago: axle: a schedule without steps"
    assert found[3].message == "never succeeded: away"


async def test_the_age_of_each_success_is_a_metric(db: AsyncConnection[Any]) -> None:
    await db.execute(JOBS)
    text = await metrics_text(db)
    assert 'flux_job_failing{job="market axle WLCE"} 1.0' in text
    assert 'flux_job_failing{job="market elexon"} 0.0' in text
    (line,) = [line for line in text.splitlines() if line.startswith('flux_job_age_seconds{job="market elexon"}')]
    assert 240 <= float(line.split()[-1]) < 300
    assert 'flux_job_age_seconds{job="market new"}' not in text
