"""A child that answers, hangs or dies; what it started ends with it."""

import os
import time

import pytest

from osteo_ray.io.child_process import ChildProcess


def child(tmp_path, monkeypatch, body: str, *args: int) -> ChildProcess:
    (tmp_path / "planted.py").write_text(
        f"import os, socket, subprocess, sys, time\n\n\ndef serve(fd, *args):\n{body}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return ChildProcess("planted", "serve", *args)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_gets_its_arguments_and_ends_when_the_socket_closes(tmp_path, monkeypatch):
    c = child(tmp_path, monkeypatch, "    s = socket.socket(fileno=fd); s.sendall(str(args).encode()); s.recv(1)", 7, 8)
    assert c.socket.recv(100) == b"(7, 8)"
    assert c.end() == "exit 0"


def test_one_that_hangs_is_killed(tmp_path, monkeypatch):
    c = child(tmp_path, monkeypatch, "    time.sleep(600)")
    assert c.end() == "signal 9"


def test_how_one_died_is_told(tmp_path, monkeypatch):
    c = child(tmp_path, monkeypatch, "    os.kill(os.getpid(), 11)")
    c.socket.settimeout(60)
    assert c.socket.recv(1) == b"", "its end of the socket is closed"
    assert c.end() == "signal 11"


def test_what_it_started_ends_with_it(tmp_path, monkeypatch):
    body = (
        "    p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    socket.socket(fileno=fd).sendall(str(p.pid).encode()); time.sleep(600)"
    )
    c = child(tmp_path, monkeypatch, body)
    c.socket.settimeout(60)
    grandchild = int(c.socket.recv(100))
    assert alive(grandchild)
    c.end()
    for _ in range(100):
        if not alive(grandchild):
            return
        time.sleep(0.1)
    pytest.fail("the grandchild lives on")
