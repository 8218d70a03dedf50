"""A course platform tells HubSpot who enrols: FastAPI on asyncpg, with page, command line and worker apart.

```
uvicorn academy:app                                    # the application; its operator's page is at /ops/hubspot/
python -m academy provision                            # creates the contact properties
HUBSPOT_WORKER_IN_APP=false python -m academy worker   # the worker; --help names the other commands
```
"""

import os
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import hubspot_sync as hs
from sqlalchemy_outbox import define_outbox, worker_engine

STUDENT = hs.ContactProperty("academy_student_id", "Academy student id", hs.PropertyType.STRING, is_unique=True)
COURSE = hs.ContactProperty("academy_course", "Last course", hs.PropertyType.STRING)
ENROLLED_AT = hs.ContactProperty("academy_enrolled_at", "Last enrolled at", hs.PropertyType.DATETIME)


class Base(DeclarativeBase):
    pass


class Enrolment(Base):
    __tablename__ = "enrolments"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[str]
    course: Mapped[str]


class Enrolled(hs.LifecycleEvent):
    event_type = "enrolled"
    student_id: Annotated[hs.Reference, STUDENT]
    email: Annotated[hs.EmailAddress, hs.EMAIL]
    course: Annotated[hs.Reference, COURSE]
    enrolled_at: Annotated[hs.Instant, ENROLLED_AT]


OUTBOX = define_outbox(Base.metadata)
CATALOG = hs.Catalog((Enrolled,), "student_id", "email", hs.PropertyGroup("academy", "Academy"))
DATABASE_URL = os.environ["DATABASE_URL"]  # postgresql+asyncpg://…
sessions = async_sessionmaker(create_async_engine(DATABASE_URL))
track = hs.Tracker(CATALOG, OUTBOX)


def load() -> hs.Integration:
    hs.configure_logging()
    engine = worker_engine(DATABASE_URL)
    return hs.Integration(hs.HubSpotSettings(), OUTBOX, CATALOG, engine, command_line="python -m academy")


hubspot = hs.AsgiIntegration(load)
app = FastAPI(lifespan=hubspot.lifespan)
app.mount("/ops/hubspot", hubspot)


@app.post("/enrolments")
async def enrol(student_id: str, email: str, course: str) -> None:
    enrolled_at = datetime.now(UTC).isoformat()
    async with sessions.begin() as db:
        db.add(Enrolment(student_id=student_id, course=course))
        track(db, "enrolled", {"student_id": student_id, "email": email, "course": course, "enrolled_at": enrolled_at})


if __name__ == "__main__":
    hs.run_cli(load)
