"""The SSH gateway: every container's own login, over exec sessions of the engine. Only this package knows asyncssh."""
