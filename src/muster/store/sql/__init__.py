"""The store on SQLAlchemy Core: SQLite today, written so that PostgreSQL can follow."""
