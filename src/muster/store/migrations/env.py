"""What Alembic runs: the migrations, inside the transaction that ``upgrade`` has begun."""

from alembic import context

from muster.store.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
