import os
import signal
import threading

import pytest

from sksubtomo._commands._guard import TERMINATED, guard

needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")


@needs_posix
def test_sigterm_cleans_up(capsys):
    earlier = signal.getsignal(signal.SIGTERM)
    done = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            # The handler runs before the next lines do.
            for _ in range(1000):
                pass
            done.append("work")
        finally:
            # A second one does not get in the way.
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("clean-up")

    assert guard("simulate", work, "Nothing was written.") == TERMINATED == 143
    assert done == ["clean-up"]
    message = "sksubtomo simulate: terminated. Nothing was written.\n"
    assert capsys.readouterr().err == message
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_sigterm_handler_comes_back():
    earlier = signal.getsignal(signal.SIGTERM)
    inside = []
    assert guard("a", lambda: inside.append(signal.getsignal(signal.SIGTERM))) == 0
    assert inside[0] not in (earlier, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_in_a_thread_signals_are_left_alone():
    earlier = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        seen.append(guard("a", lambda: seen.append(signal.getsignal(signal.SIGTERM))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [earlier, 0]
