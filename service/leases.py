"""Who does what: scheduled jobs, training runs, and which server is alive.

Every claim is decided by one conditional statement in the database, so that any
number of processes may try at once and one wins. Each function commits: a claim that
others cannot see is none. Clocks of several machines must agree to within a few
seconds, as leases are compared with the claimant's clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Update, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select, update

from service.database import changed_rows
from service.tables import JobRun, ServiceInstance, TrainingRun, now


def claim_job(session: Session, job: str, slot: datetime, holder: str, lease_s: float) -> bool:
    """Take one due time of a job; False where somebody has it or it is done.

    A holder that vanished loses it `lease_s` seconds after its claim.
    """
    moment = now()
    expires = moment + timedelta(seconds=lease_s)
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(JobRun)
        .values(job=job, slot=slot, holder=holder, lease_expires_at=expires)
        .on_conflict_do_update(
            index_elements=["job", "slot"],
            set_={"holder": holder, "lease_expires_at": expires},
            where=col(JobRun.finished_at).is_(None) & (col(JobRun.lease_expires_at) < moment),
        )
        .returning(col(JobRun.holder))
    )
    won = session.connection().execute(statement).first() is not None
    session.commit()
    return won


def finish_job(
    session: Session, job: str, slot: datetime, holder: str, error: str | None = None
) -> bool:
    """Mark a due time as done, with its error if it failed; False where `holder` lost it."""
    statement = (
        update(JobRun)
        .where(
            col(JobRun.job) == job,
            col(JobRun.slot) == slot,
            col(JobRun.holder) == holder,
            col(JobRun.finished_at).is_(None),
        )
        .values(finished_at=now(), error=error)
    )
    return _changed_one(session, statement)


def claim_run(session: Session, run_id: str, holder: str, lease_s: float) -> int | None:
    """Take a training run that nobody conducts; its fencing number, or None where it is held.

    The number grows with each holder: whoever has an older one must stop.
    """
    moment = now()
    free = or_(
        col(TrainingRun.lease_holder).is_(None),
        col(TrainingRun.lease_expires_at).is_(None),
        col(TrainingRun.lease_expires_at) < moment,
    )
    statement = (
        update(TrainingRun)
        .where(col(TrainingRun.id) == run_id, free)
        .values(
            lease_holder=holder,
            lease_expires_at=moment + timedelta(seconds=lease_s),
            fencing=col(TrainingRun.fencing) + 1,
        )
        .returning(col(TrainingRun.fencing))
        .execution_options(synchronize_session=False)
    )
    fencing = session.connection().execute(statement).scalar()
    session.commit()
    session.expire_all()
    return fencing


def renew_run(session: Session, run_id: str, holder: str, fencing: int, lease_s: float) -> bool:
    """Hold the run for another `lease_s` seconds; False where somebody else took it over."""
    expires = now() + timedelta(seconds=lease_s)
    statement = _held(run_id, holder, fencing).values(lease_expires_at=expires)
    return _changed_one(session, statement)


def release_run(session: Session, run_id: str, holder: str, fencing: int) -> bool:
    """Let the run go; False where somebody else took it over."""
    statement = _held(run_id, holder, fencing).values(lease_holder=None, lease_expires_at=None)
    return _changed_one(session, statement)


def beat(session: Session, instance_id: str, address: str) -> None:
    """Say that this server is alive."""
    moment = now()
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(ServiceInstance)
        .values(id=instance_id, address=address, started_at=moment, seen_at=moment)
        .on_conflict_do_update(index_elements=["id"], set_={"seen_at": moment, "address": address})
    )
    session.connection().execute(statement)
    session.commit()


def leave(session: Session, instance_id: str) -> None:
    """Say that this server stops; promotions are no longer left to it."""
    session.exec(delete(ServiceInstance).where(col(ServiceInstance.id) == instance_id))
    session.commit()


def live_server(session: Session, max_age_s: float = 15) -> ServiceInstance | None:
    """The server seen last, or None where none was seen within `max_age_s` seconds."""
    oldest = now() - timedelta(seconds=max_age_s)
    query = select(ServiceInstance).where(col(ServiceInstance.seen_at) >= oldest)
    return session.exec(query.order_by(col(ServiceInstance.seen_at).desc())).first()


def _held(run_id: str, holder: str, fencing: int) -> Update:
    return update(TrainingRun).where(
        col(TrainingRun.id) == run_id,
        col(TrainingRun.lease_holder) == holder,
        col(TrainingRun.fencing) == fencing,
    )


def _changed_one(session: Session, statement: Update) -> bool:
    changed = session.connection().execute(statement)
    session.commit()
    session.expire_all()
    return changed_rows(changed) == 1
