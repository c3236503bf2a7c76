import os
import select
import signal
import subprocess
import sys

from ipc.process import open_pidfd, start_ticks


def test_a_pidfd_becomes_readable_when_the_process_ends():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = open_pidfd(child.pid, start_ticks(child.pid))
    assert select.select([pidfd], [], [], 0)[0] == []
    child.send_signal(signal.SIGKILL)
    assert select.select([pidfd], [], [], 5)[0] == [pidfd]
    os.close(pidfd)
    child.communicate()


def test_a_later_process_with_the_same_pid_counts_as_gone():
    assert open_pidfd(os.getpid(), start_ticks(os.getpid()) + 1) is None


def test_a_process_that_has_ended_has_no_pidfd():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert open_pidfd(child.pid) is None
    assert start_ticks(child.pid) == 0


def test_a_child_dies_with_its_parent():
    grandchild = "from ipc.process import die_with_parent; die_with_parent(); print('up', flush=True); input()"
    parent = (
        "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE); c.stdout.readline(); print(c.pid, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    grandchild_pid = int(process.stdout.readline())
    pidfd = open_pidfd(grandchild_pid)
    process.kill()
    process.communicate()
    assert select.select([pidfd], [], [], 5)[0] == [pidfd]
    os.close(pidfd)
