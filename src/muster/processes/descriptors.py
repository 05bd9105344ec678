"""How many files and connections a process may have open: systems allow 1024 at first, and many more when asked."""

import resource


def allow(least: int | None = None) -> int | None:
    """Raise the limit to ``least``, or as far as the system lets us; return the one that holds now, ``None`` for none.

    Without ``least`` it is raised as far as that goes. It is inherited by whatever is started, and some programs close
    every descriptor that they might have, so a process with children of other people's asks for what it needs only.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = hard if least is None else least if hard == unlimited else min(least, hard)
    if soft != unlimited and (wanted == unlimited or wanted > soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return None if soft == unlimited else soft
