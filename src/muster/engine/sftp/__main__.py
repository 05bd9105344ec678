"""``python -P -I -m muster.engine.sftp [NAME=DESCRIPTOR …]``: SFTP on standard input and output.

Without arguments it serves the files of this host, beginning in its working directory, as OpenSSH's ``sftp-server``
does. With ``mount``, ``root`` and perhaps ``user``, descriptors that the engine has opened of a container, it goes in
there first; ``until`` is one of a process with which it ends. What speaks against that is told on standard error, which
is closed without a word when all is well: who starts it knows by its end that the container was entered.
"""

import os
import sys

from muster.engine.sftp import confine, worker


def main() -> int:
    """Be the process; returns its exit code."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    numbers = {name: int(number) for name, number in given.items()}
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    if "mount" in numbers:
        confine.warm_up()
        confine.enter(numbers["mount"], numbers["root"], numbers.get("user"))
        confine.refuse_imports()
    os.dup2(nothing, 2)
    os.close(nothing)
    return 0 if worker.serve(0, 1, numbers.get("until")) else 1


if __name__ == "__main__":
    try:
        code = main()
    except BaseException as error:  # noqa: BLE001  a traceback would read sources, by now perhaps of a container
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        code = 1
    os._exit(code)
