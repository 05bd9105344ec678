"""This process's own terminal while a command elsewhere has it: its keys go there raw, and every way out restores it.

``raw`` gives up line editing and the keys for signals until it is left: by the command's end, by an error, or by a
signal, once ``leaving_on_signals`` has made exceptions of those that would end the process (``SIGTERM``, and ``SIGHUP``
when the window is closed). An exception may come at any instruction; ``signals_held`` is for what must not be half
done.

``Feeder`` is the one thread that listens on this side: to standard input, and to the terminal's size. A signal handler
only wakes it: what it interrupts may hold the locks that telling a new size needs.
"""

import contextlib
import os
import select
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from muster.client.exec import ExecStream

STDIN, STDOUT, STDERR = 0, 1, 2
_CHUNK_BYTES = 1 << 16
_RESIZED, _QUIT = b"r", b"q"


def size() -> tuple[int, int] | None:
    """Return columns × rows of the terminal, if there is one that knows them."""
    for number in (STDOUT, STDIN, STDERR):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(number)
            if found.columns and found.lines:
                return found.columns, found.lines
    return None


def is_terminal(number: int) -> bool:
    """Tell whether one of the standard streams is a terminal."""
    with contextlib.suppress(OSError):
        return os.isatty(number)
    return False


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Pass every key on as it is, until left."""
    before = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN, termios.TCSADRAIN)  # what was typed ahead stays
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Let signals that would end the process unwind it instead, with the exit code that a shell would see."""
    with _handling((signal.SIGTERM, signal.SIGHUP), _leave):
        yield


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals that unwind the process wait until this is over."""
    waiting: list[int] = []
    with _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda number, _: waiting.append(number)):
        yield
    for number in waiting:
        signal.raise_signal(number)


def put(number: int, data: bytes) -> None:
    """Write all of it to standard output or standard error, past every buffer."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


class Feeder:
    """Gives a command elsewhere what this side is given; use it around the stream, which it then does not outlive.

    With ``reads_input`` standard input up to its end, with ``follows_size`` each new size of the terminal.
    """

    def __init__(self, *, reads_input: bool, follows_size: bool) -> None:
        self._reads_input = reads_input
        self._follows_size = follows_size
        self._awake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._thread: threading.Thread | None = None
        self._former: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        if self._follows_size:
            self._former = signal.signal(signal.SIGWINCH, self._on_resize)
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; the stream has ended before, so nothing holds it."""
        if self._follows_size:
            signal.signal(signal.SIGWINCH, self._former)
        os.write(self._waker, _QUIT)
        if self._thread is not None:
            self._thread.join()
        os.close(self._awake)
        os.close(self._waker)

    def start(self, stream: "ExecStream") -> None:
        """Begin to feed a stream."""
        self._thread = threading.Thread(target=self._run, args=(stream,), name="exec input", daemon=True)
        self._thread.start()

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._waker, _RESIZED)

    def _run(self, stream: "ExecStream") -> None:
        sources = [self._awake, STDIN] if self._reads_input else [self._awake]
        while True:
            try:
                ready, _, _ = select.select(sources, [], [])
            except OSError:  # standard input is closed
                ready = [STDIN]
            if self._awake in ready:
                told = os.read(self._awake, _CHUNK_BYTES)
                if _QUIT in told:
                    return
                if found := size():
                    stream.resize(*found)
            if STDIN in ready:
                data = _read()
                if data is None:
                    continue
                if data:
                    stream.write(data)
                else:
                    stream.write_eof()
                    sources.remove(STDIN)


def _read() -> bytes | None:
    """Return what is there, empty at the end, ``None`` if there is nothing after all."""
    try:
        return os.read(STDIN, _CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # closed, or a terminal that is gone or not ours
        return b""


@contextlib.contextmanager
def _handling(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # under nohup it stays so
    former = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, each in former.items():
            signal.signal(number, each)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
