"""The store on SQLAlchemy Core: SQLite now, in portable SQL. ``store.py`` is the way in."""
