"""The only places that wire: each module builds one process and runs it as one task group."""
