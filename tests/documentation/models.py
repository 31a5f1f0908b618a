"""The table of the guide, as SQLAlchemy has it."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Of the one class."""


class Page(Base):
    __tablename__ = "page_views"
    path: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int] = mapped_column(server_default="0")
    title: Mapped[str | None]
