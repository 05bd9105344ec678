"""One container of the local engine: a process of its own that runs the command and outlives whoever asked for it.

Started as ``python -I -S shim.py FOLDER SHELL LOG_BYTES``; standard library only, and as little of it as possible,
because its start is most of the start of a container. It forks at once: the parent waits until the run is marked as
started and tells the outcome as its exit status (``Outcome``), the child is the shim, which nobody has to reap.

Files of the folder, plain bytes, written whole or not at all (``write_whole``):

==============  ==================================================================================
``command``     what to run, by ``SHELL -c``
``stop``        the stop order: first line ``before_seconds term_seconds``, rest ``cmd_before_shutdown``
``environ``     the whole environment, ``NAME=value`` ended by NUL; mode 0600
``workdir``     path of the working directory
``lock``        flocked by the shim as long as it lives: the one truth about liveness
``run``         the marker "was started": boot id, pid, start time of the shim, Unix time; one per line
``exit``        the end: exit code or ``-``, Unix time, reason or empty, message; one per line
``output.log``  output, at most LOG_BYTES, before that ``output.log.1``
``exec``        a socket: the way in for commands beside the run's own
==============  ==================================================================================

**The command runs at most once**, whoever dies when: only the holder of ``lock`` may write ``run``, it does so only
when neither ``run`` nor ``exit`` is there, and it starts the command only afterwards. So before the marker nothing has
run and a start may be repeated; after it nobody runs it again, even if the shim died between marker and command.

**Nothing outlives the run.** The shim is the subreaper of everything below it: a daemon that left its session becomes
the shim's child when its parent ends, and is killed and reaped before ``exit`` is written. Should the shim itself be
killed, the kernel kills the command (PDEATHSIG) and the engine sweeps up what is left.

Signals: USR1 begins the stop sequence that ``stop`` says, TERM too (with defaults if nobody wrote it); USR2 ends the
run at once. Once TERM was sent, what the command left behind when it ended has the rest of ``term_seconds``: a
wrapping shell dies of TERM at once, the server that it wrapped should be able to finish its work.

**Commands beside the run's own** are the shim's children too, so that they end with the run and nothing has to look for
them. Whoever wants one connects to ``exec`` (a SEQPACKET socket) and sends one message: ``t`` for a terminal or ``p``
for pipes, then the words, with a NUL between, and with the message three descriptors for its input, output and errors.
The shim answers ``+`` when it runs, and its exit code when it has ended. Who closes the connection before hangs up.
"""

# ruff: noqa: PTH104, PTH108, PTH110, PTH112, PTH120, PTH208, S606
# pathlib would double the time that this script takes to start.

import _socket
import contextlib
import ctypes
import enum
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable

COMMAND, STOP, ENVIRON, WORKDIR = "command", "stop", "environ", "workdir"
LOCK, RUN, EXIT, OUTPUT, OLD_OUTPUT = "lock", "run", "exit", "output.log", "output.log.1"
EXEC = "exec"
STARTED = b"+"
LONGEST_COMMAND_BYTES = 1 << 17

NEVER_STARTED = "stopped before it was started"

_TIOCSCTTY = 0x540E  # of every Linux that Muster runs on; termios is a file more to load
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHUNK_BYTES = 65536
_DEFAULT_ORDER = (b"", 5.0, 10.0)
_MOST_CALLERS = 256
_DESCRIPTORS = 3
_WATCHED = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Outcome(enum.IntEnum):
    """How an attempt to start ended: the exit status of the process that the engine waits for."""

    STARTED = 0
    FAILED = 1
    LOCKED = 40
    STARTED_BEFORE = 41
    ENDED_BEFORE = 42
    NO_WORKDIR = 43


def write_whole(path: str, content: bytes, *, is_durable: bool = False) -> None:
    """Write a file of mode 0600 that others see whole or not at all; ``is_durable``: also after a power cut."""
    new = f"{path}.{os.getpid()}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(new, path)
    if is_durable:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_whole(path: str) -> bytes | None:
    """Return a file's content, ``None`` when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def try_lock(path: str, seconds: float) -> int | None:
    """Return a descriptor that holds the lock, ``None`` when somebody else held it for all these seconds.

    Observers hold it for microseconds, so even a shim that expects nobody has to try for a moment.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.005)
        else:
            return descriptor


def exit_record(exit_code: int | None, reason: str = "", message: str = "", at: float | None = None) -> bytes:
    """Return the content of ``exit``."""
    code = "-" if exit_code is None else str(exit_code)
    return f"{code}\n{time.time() if at is None else at:.6f}\n{reason}\n{message}\n".encode()


def boot_id() -> str:
    """Return what the kernel calls this boot."""
    return (read_whole("/proc/sys/kernel/random/boot_id") or b"").decode().strip()


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` from the third on (state, parent, …), nothing if there is no such pid.

    The second one, the name, is in parentheses and may itself hold anything.
    """
    try:
        return (read_whole(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()
    except ProcessLookupError:
        return []


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class _Log:
    """The output, bounded: two files, the older one is thrown away."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._open()

    def _open(self) -> None:
        self._file = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def write(self, chunk: bytes) -> None:
        try:
            if self._size and self._size + len(chunk) > self._limit_bytes:
                os.rename(OUTPUT, OLD_OUTPUT)
                os.close(self._file)
                self._open()
            self._size += os.write(self._file, chunk)
        except OSError:
            return  # a full disk costs output, never the run


class _Commands:
    """Those who connected to ``exec``, and the commands that they brought."""

    def __init__(self, spawn: Callable[[list[bytes], list[int], bool], int]) -> None:
        self._spawn = spawn
        with contextlib.suppress(FileNotFoundError):
            os.unlink(EXEC)
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        self._listener = _socket.socket(_socket.AF_UNIX, kind)
        self._listener.bind(EXEC)
        self._listener.listen(_MOST_CALLERS)
        self._callers: dict[int, tuple[_socket.socket, int]] = {}
        self.leaders: set[int] = set()

    @property
    def descriptors(self) -> list[int]:
        """What is to be waited for: callers, and who wants to be one unless there are too many."""
        listener = [self._listener.fileno()] if len(self._callers) < _MOST_CALLERS else []
        return [*listener, *self._callers]

    def look(self, descriptor: int) -> None:
        """See what has come."""
        try:
            if descriptor == self._listener.fileno():
                # what socket.accept calls, of a module that takes longer to load than all others here
                number = self._listener._accept()[0]  # type: ignore[attr-defined]  # noqa: SLF001
                self._callers[number] = _socket.socket(fileno=number), 0
            elif descriptor in self._callers:
                self._hear(descriptor, *self._callers[descriptor])
        except OSError:
            self._drop(descriptor)

    def note(self, pid: int, code: int) -> None:
        """Tell whoever brought a command how it ended."""
        self.leaders.discard(pid)
        for descriptor, (caller, leader) in list(self._callers.items()):
            if leader == pid:
                with contextlib.suppress(OSError):
                    caller.send(str(code).encode())
                self._drop(descriptor)

    def _hear(self, descriptor: int, caller: _socket.socket, leader: int) -> None:
        space = _socket.CMSG_SPACE(4 * _DESCRIPTORS)
        flags = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        message, extra, _, _ = caller.recvmsg(LONGEST_COMMAND_BYTES + 1, space, flags)
        brought = [
            int.from_bytes(content[at : at + 4], sys.byteorder)
            for _, _, content in extra
            for at in range(0, len(content), 4)
        ]
        try:
            if leader or len(brought) != _DESCRIPTORS or not 1 < len(message) <= LONGEST_COMMAND_BYTES:
                self._drop(descriptor)
                return
            pid = self._spawn(message[1:].split(b"\0"), brought, message[:1] == b"t")
            self.leaders.add(pid)
            self._callers[descriptor] = caller, pid
            caller.send(STARTED)
        finally:
            for number in brought:
                os.close(number)

    def _drop(self, descriptor: int) -> None:
        """Let a caller go; a command that still runs gets a hang-up, as from a closed terminal."""
        caller, leader = self._callers.pop(descriptor, (None, 0))
        if caller is not None:
            caller.close()
        if leader in self.leaders:
            for number in (signal.SIGHUP, signal.SIGCONT):
                _kill_group(leader, number)


class _Run:
    """The command and everything that comes of it, from its start to the end of the last process."""

    def __init__(self, shell: bytes, log: _Log) -> None:
        self._shell = shell
        self._log = log
        self._environ = _read_environ()
        self._workdir = read_whole(WORKDIR) or b"/"
        self._output, self._output_end = os.pipe()
        os.set_blocking(self._output, False)
        self._wake, wake_end = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        self._has_output = True
        self._commands = _Commands(self._spawn_beside)
        self._leader = 0
        self._leader_status: int | None = None
        self._before = 0
        self._order: tuple[bytes, float, float] | None = None
        self._deadline: float | None = None
        self._is_terminated = False

    def start(self) -> None:
        self._leader = self._spawn(read_whole(COMMAND) or b"")

    def follow(self) -> int:
        """Return the exit code, once nothing of the run is left."""
        signals = {int(signal.SIGUSR1)} if os.path.exists(STOP) else set()
        while True:
            has_children = self._reap()
            if signal.SIGUSR2 in signals:
                break
            if self._leader_status is not None and not (self._is_terminated and has_children and self._has_left_any()):
                break
            if self._order is None and signals & {signal.SIGUSR1, signal.SIGTERM}:
                self._begin_stop()
            if self._before and self._is_overdue():
                _kill_group(self._before, signal.SIGKILL)
                self._before = 0
            if self._order is not None and not self._before and not self._is_terminated:
                self._terminate(self._order[2])
            if self._is_terminated and self._is_overdue():
                break
            signals = self._wait()
        self._kill_all()
        assert self._leader_status is not None
        return self._leader_status

    def _wait(self) -> set[int]:
        """Wait for a signal or the deadline, copying output meanwhile; returns the signals."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._has_output:
            poll.register(self._output, select.POLLIN)
        for descriptor in self._commands.descriptors:
            poll.register(descriptor, select.POLLIN)
        timeout = None if self._deadline is None else max(0.0, (self._deadline - time.monotonic()) * 1000) + 1
        ready = [descriptor for descriptor, _ in poll.poll(timeout)]
        if self._output in ready:
            self._copy()
        for descriptor in ready:
            if descriptor not in (self._output, self._wake):
                self._commands.look(descriptor)
        return set(os.read(self._wake, 512)) if self._wake in ready else set()

    def _copy(self) -> bool:
        """Copy one chunk of output; returns whether there may be more."""
        try:
            chunk = os.read(self._output, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._has_output = bool(chunk)
        self._log.write(chunk)
        return self._has_output

    def _is_overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _begin_stop(self) -> None:
        self._order = _read_order()
        command, before_seconds, _ = self._order
        if command.strip():
            self._before = self._spawn(command)
            self._deadline = time.monotonic() + before_seconds

    def _terminate(self, seconds: float) -> None:
        self._is_terminated = True
        self._deadline = time.monotonic() + seconds
        if self._leader_status is None:
            _kill_group(self._leader, signal.SIGTERM)
        self._signal_children(signal.SIGTERM, but=self._leader)

    def _reap(self) -> bool:
        """Collect whoever has ended; returns whether there are children left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._note(pid, status)

    def _note(self, pid: int, status: int) -> None:
        if pid == self._leader:
            code = os.waitstatus_to_exitcode(status)
            self._leader_status = code if code >= 0 else 128 - code
            if self._is_terminated:
                self._signal_children(signal.SIGTERM)
        elif pid == self._before:
            self._before = 0
        elif pid in self._commands.leaders:
            code = os.waitstatus_to_exitcode(status)
            self._commands.note(pid, code if code >= 0 else 128 - code)

    def _kill_all(self) -> None:
        """Kill and reap until nobody is left.

        Children only, because a child that was not reaped cannot have lost its pid to a stranger; the children of
        those who die become ours, and are next.
        """
        while self._reap():
            self._signal_children(signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            self._note(pid, status)
            while self._has_output and self._copy():
                pass
        while self._has_output and self._copy():
            pass

    def _has_left_any(self) -> bool:
        """Tell whether the command left processes behind; what runs beside it is not waited for."""
        return any(child not in self._commands.leaders for child in _children())

    @staticmethod
    def _signal_children(number: int, but: int = 0) -> None:
        for child in _children():
            if child != but:
                os.kill(child, number)

    def _spawn(self, command: bytes) -> int:
        """Start a shell that runs a command of the run's own."""
        output = self._output_end
        return self._fork([self._shell, b"-c", command], [0, output, output], self._environ)

    def _spawn_beside(self, words: list[bytes], descriptors: list[int], has_terminal: bool) -> int:
        """Start a command that somebody brought."""
        environ = {**self._environ, b"TERM": b"xterm"} if has_terminal else self._environ
        return self._fork(words, descriptors, environ, has_terminal=has_terminal)

    def _fork(
        self, words: list[bytes], descriptors: list[int], environ: dict[bytes, bytes], *, has_terminal: bool = False
    ) -> int:
        """Start a program; the child leads a session of its own and dies with the shim.

        Signals wait while the child still has the shim's handlers, which would swallow a TERM.
        """
        shim = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            return pid
        try:
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == shim:
                signal.set_wakeup_fd(-1)
                for number in (*_WATCHED, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                for lowest, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, lowest)
                if has_terminal:
                    fcntl.ioctl(0, _TIOCSCTTY, 0)
                os.chdir(self._workdir)
                _become(words, environ)
        except OSError as error:
            os.write(2, b"muster: cannot run %s: %s\n" % (words[0], str(error).encode()))
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
        finally:
            os._exit(126)


def _become(words: list[bytes], environ: dict[bytes, bytes]) -> None:
    """Become a program, found in PATH as a shell finds it. Raises ``OSError``."""
    folders = environ.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    paths = words[:1] if b"/" in words[0] else [folder + b"/" + words[0] for folder in folders if folder]
    refusal: OSError = FileNotFoundError("not found")
    for path in paths:
        try:
            os.execve(path, words, environ)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refusal = error
    raise refusal


def _children() -> list[int]:
    me = str(os.getpid()).encode()
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    return [int(name) for name in names if stat_fields(int(name))[1:2] == [me]]


def _kill_group(leader: int, number: int) -> None:
    """Signal the session of a child that was not reaped, also if it has not yet come to make one."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        os.kill(leader, number)


def _read_environ() -> dict[bytes, bytes]:
    pairs = (line.partition(b"=") for line in (read_whole(ENVIRON) or b"").split(b"\0") if line)
    return {name: value for name, _, value in pairs}


def _read_order() -> tuple[bytes, float, float]:
    first, _, command = (read_whole(STOP) or b"").partition(b"\n")
    try:
        before_seconds, term_seconds = map(float, first.split())
    except ValueError:
        return _DEFAULT_ORDER
    return command, before_seconds, term_seconds


def _begin(shell: bytes, log_bytes: int) -> _Run | Outcome:
    """Take the lock, mark the run as started and start it; or say why not."""
    if try_lock(LOCK, 0.25) is None:
        return Outcome.LOCKED
    if os.path.exists(RUN):
        return Outcome.STARTED_BEFORE
    if os.path.exists(EXIT):
        return Outcome.ENDED_BEFORE
    if os.path.exists(STOP):
        write_whole(EXIT, exit_record(None, message=NEVER_STARTED), is_durable=True)
        return Outcome.ENDED_BEFORE
    if not os.path.isdir(read_whole(WORKDIR) or b"/"):
        return Outcome.NO_WORKDIR
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    run = _Run(shell, _Log(log_bytes))
    for number in _WATCHED:
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid = os.getpid()
    marker = f"{boot_id()}\n{pid}\n{stat_fields(pid)[19].decode()}\n{time.time():.6f}\n"
    write_whole(RUN, marker.encode(), is_durable=True)
    run.start()
    return run


def _shim(folder: bytes, shell: bytes, log_bytes: int, report: int) -> None:
    """Be the shim: report how the start went, follow the run, record its end."""
    os.setsid()
    os.chdir(folder)
    begun = _begin(shell, log_bytes)
    os.write(report, bytes([begun if isinstance(begun, Outcome) else Outcome.STARTED]))
    os.close(report)
    if not isinstance(begun, Outcome):
        write_whole(EXIT, exit_record(begun.follow()), is_durable=True)


def main() -> None:
    """Fork the shim, wait for its word, and pass it on."""
    folder, shell, log_bytes = sys.argv[1:]
    os.closerange(3, 65536)
    word, report = os.pipe()
    if os.fork() == 0:
        os.close(word)
        try:
            _shim(os.fsencode(folder), os.fsencode(shell), int(log_bytes), report)
        finally:
            if error := sys.exc_info()[1]:
                sys.excepthook(type(error), error, error.__traceback__)
            os._exit(1 if error else 0)
    os.close(report)
    signal.alarm(10)  # a shim that cannot even begin must not keep the engine waiting
    told = os.read(word, 1)
    os._exit(told[0] if told else Outcome.FAILED)


if __name__ == "__main__":
    main()
